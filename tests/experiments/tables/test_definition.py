"""What a table's YAML says, and what is wrong in it."""

import pytest

from experiments.tables.definition import TABLES, read_table, resolved
from experiments.tables.page import write_markdown
from experiments.tables.runs import config_scores
from tests.support.tiny_tables import reproduced, write
from util.config.keys import FinetuneConfig, PretrainConfig
from util.errors import ConfigError


def test_what_is_wrong_in_a_table_is_said(tables):
    write(tables, colour="red")
    with pytest.raises(ConfigError, match="unknown key 'colour'"):
        read_table("tiny")
    with pytest.raises(ConfigError, match="no table huge; known: tiny"):
        read_table("huge")
    write(tables, rows=[{"name": "ours", "against": "theirs"}])
    with pytest.raises(
        ConfigError, match="ours is compared with 'theirs', which is no row above it"
    ):
        read_table("tiny")
    write(tables)
    with pytest.raises(ConfigError, match="rows are ours, published start"):
        reproduced(tables, "--only", "theirs")
    (tables / "RESULTS.md").write_text("nothing")
    with pytest.raises(ConfigError, match="lacks the lines"):
        write_markdown(read_table("tiny"), tables / "RESULTS.md")


def test_the_tables_here_are_of_configs_that_exist():
    for path in TABLES.glob("*.yaml"):
        table = read_table(path.stem)
        for row in table.rows:
            config = resolved(row, FinetuneConfig, {})
            assert table.score in config_scores(config)
            if row.pretrain:
                resolved(row.pretrain, PretrainConfig, {})
