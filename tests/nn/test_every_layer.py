"""Every spatial layer works in a whole frame and in training, or is refused with a line that says what to do."""

import pytest
from layer_outcomes import CONFIGS, NAMES, outcome, stated

STATED = stated()
REMEDIES = ("take another name", "give ", "its arguments are")


def test_the_page_has_every_layer():
    assert list(STATED) == NAMES, "PYTHONPATH=. python tests/layer_outcomes.py prints the table of docs/layers.md"


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", NAMES)
def test_works_or_is_refused_as_the_page_says(name, config):
    found = outcome(name, config)
    assert found == STATED[name][config]
    assert found == "works" or (any(words in found for words in REMEDIES) and "\n" not in found)
