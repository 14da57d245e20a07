"Plausible mistakes in the exercise of chapter 96; each must be rejected."
WRONG = {
    "check_share_recorded": [
        "def share_recorded(configs, records): return len(records)/len(configs)",                        # others count
        # repeated configs count
        """def share_recorded(configs, records):
    recorded = {r["key"] for r in records}
    return sum(key(c) in recorded for c in configs)/len(configs)""",
        # what crashed is recorded too
        """def share_recorded(configs, records):
    planned, recorded = {key(c) for c in configs}, {r["key"] for r in records if r["status"] == "done"}
    return len(planned & recorded)/len(planned)""",
        # the order of places is no difference
        """def share_recorded(configs, records):
    planned, recorded = {str(c) for c in configs}, {str(r["config"]) for r in records}
    return len(planned & recorded)/len(planned)""",
    ],
}
