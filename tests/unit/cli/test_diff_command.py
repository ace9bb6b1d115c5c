"""`nfinspect diff`: figures for people and scripts, an exit status for pipelines, refusals in one line."""

import json

from command_line import Run


def test_a_difference_and_its_exit_status(nfinspect: Run) -> None:
    for name, share in (("before", "0.05"), ("after", "0.2")):
        nfinspect(
            "simulate", "--layers", "2", "--neurons", "60", "--tokens", "256", "--share", f"dead={share}", "--run", name
        )
    done = nfinspect("diff", "before", "after", "--fail-if", "died>5 and health<-0.01", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 3 and "holds" in done.stderr
    assert found["died"] > 5 and found["health"]["b"] < found["health"]["a"] and len(found["neurons"]) == 20
    done = nfinspect("diff", "before", "after", "--fail-if", "died<1 or health>0", "--top", "0")
    assert done.returncode == 0 and f"{found['died']} died" in " ".join(done.stdout.split())
    assert nfinspect("diff", "before", "before").returncode == 0


def test_what_is_refused(nfinspect: Run) -> None:
    for line, said in (
        (("planted", "planted", "--fail-if", "alive>1"), "no figure 'alive'"),
        (("planted", "planted", "--fail-if", "died>"), "cannot read"),
        (("planted", "nowhere"), "no run 'nowhere'"),
    ):
        done = nfinspect("diff", *line)
        assert done.returncode in (1, 2) and said in done.stderr and done.stderr.count("\n") == 1
