"""metrics.jsonl survives a torn line, and says null where there is no number."""

import json

from trainer.training.metrics_log import MetricsLog


def test_what_json_cannot_say_becomes_null(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 1, "loss": float("nan"), "eval": {"psnr": [float("inf"), 2.0]}})
    assert log.read() == [{"step": 1, "loss": None, "eval": {"psnr": [None, 2.0]}}]


def test_a_line_cut_at_any_byte_never_merges_with_the_next(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2):
        log.append({"step": step, "loss": 0.5})
    whole = log.path.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        log.path.write_bytes(whole[:cut])
        log.rewind(2)
        log.append({"step": 2, "loss": 0.25})
        steps = [json.loads(line)["step"] for line in log.path.read_text().splitlines()]
        assert steps == [1, 2], cut


def test_rewind_drops_what_lies_beyond_the_checkpoint(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(1, 8):
        log.append({"step": step})
    log.rewind(5)
    assert [record["step"] for record in log.read()] == [1, 2, 3, 4, 5]
