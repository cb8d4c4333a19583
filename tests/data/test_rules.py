from __future__ import annotations

from chronoward.data.rules import CHANGING, REMOVING, Rule


def test_every_rule_has_a_meaning_and_removing_rules_come_first() -> None:
    assert all(rule.meaning.endswith(".") for rule in Rule)
    assert tuple(Rule) == REMOVING + CHANGING


def test_a_rule_is_its_name() -> None:
    assert Rule("exact_duplicate") is Rule.EXACT_DUPLICATE
    assert str(Rule.EXACT_DUPLICATE) == Rule.EXACT_DUPLICATE == "exact_duplicate"
