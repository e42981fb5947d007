from automem_jax.report.chosen import selection_details

DETAILS = {
    "concentration": {"largest_episode_share": 0.25, "effective_episodes": 4.0},
    "shapes": {"log.0.2^9": {"decisions": 10, "kept": 4}, "plan.0.2^9": {"decisions": 3, "kept": 0}},
    "signals": {
        "lineage": {"measured": 13, "mean": 0.1, "kept": 4, "mean_kept": 0.4},
        "judge": {"measured": 2, "mean": 0.5, "kept": 0, "mean_kept": None},
    },
    "agreement": {"judge": {"lineage": 0.75}, "counterfactual": {}},
    "rejected_examples": {
        "not_observed": [
            {"trace": "toy-1", "t": 2, "phase": "log", "turn": 0, "text": "<b>x", "values": {"lineage": 0.1}}
        ]
    },
}  # fmt: skip


def test_a_selection_tells_spread_coverage_signals_and_what_it_rejected():
    page = str(selection_details({"details": DETAILS}))
    for words in (
        "gives 25.0 %",
        "4.0 episodes",
        "1 of 2 are covered",
        "+0.400",
        "Agreement of the judge",
        "+0.750",
        "not observed",
        "&lt;b&gt;x",
        "toy-1, step 2, LOG",
    ):
        assert words in page, words
    assert "Agreement of the counterfactual" not in page and "<b>x" not in page


def test_older_selections_have_no_details():
    assert str(selection_details({})) == ""
