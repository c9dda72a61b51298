"""docs/configs.md:  python -m util.config > docs/configs.md"""

from util.config.page import page

print(page(), end="")
