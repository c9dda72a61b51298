"""docs/configs.md:  python -m util.config > docs/configs.md"""

from util.config.keys import page

print(page(), end="")
