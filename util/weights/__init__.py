"""Files of weights, from this project and elsewhere: what they are, and what they say of
themselves.
"""
