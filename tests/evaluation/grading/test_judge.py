"""A real server on this machine judges by a rule that the test knows."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from longrun.config.evaluation import EvaluateConfig, JudgeSettings
from longrun.errors import ConfigError
from longrun.evaluation.grading.judge import Judge, read_verdict
from longrun.evaluation.scores.evaluate import run
from longrun.formats.predictions import Prediction, read_grades


def predict(name, answer, expected="(0,1)"):
    text = f"\\boxed{{{answer}}}"
    return Prediction(
        id=name,
        sample=0,
        mode="cot",
        source="s",
        problem="Where?",
        prompt_tokens=4,
        expected_answer=expected,
        candidates=[],
        generation=text,
        pieces=[("answer", text)],
        finish="stop",
        tokens=10,
        code_calls=0,
        code_errors=0,
    )


ROWS = [
    predict("interval", "0 < x < 1"),
    predict("again", "0 < x < 1"),
    predict("other", "0 < x < 2"),
    predict("same", "(0, 1)"),
    predict("number", "5", "6"),
    predict("strange", "x + y + z"),
]


@pytest.fixture
def judge_server():
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][0]["content"]
            asked.append(text)
            said = "Hm.\nJudgement: " + ("yes" if "0 < x < 1" in text else "no")
            if "x + y + z" in text:
                said = "I cannot tell."
            content = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    server.server_close()


def evaluate(tmp_path, folder, url, name="scores"):
    judge = {"endpoint": {"url": url, "model": "wise", "attempts": 2}}
    values = {"output_dir": str(tmp_path / name), "predictions": str(folder)}
    config = EvaluateConfig.parse(values | ({"judge": judge} if url else {}), "evaluate")
    manifest = run(config)
    return read_grades(config.output_dir / "grades" / "base" / "b.jsonl"), manifest


def test_only_what_comparison_left_open_is_asked_and_asked_once(
    tmp_path, generated, judge_server, monkeypatch
):
    monkeypatch.setattr("longrun.evaluation.generation.endpoint_client._FIRST_PAUSE", 0.01)
    url, asked = judge_server
    grades, manifest = evaluate(tmp_path, generated("g", {"b": {"base": ROWS}}), url)
    verdicts = {grade.id: (grade.verdict, grade.correct) for grade in grades}
    assert verdicts == {
        "interval": ("right", True),
        "again": ("right", True),
        "other": ("wrong", False),
        "same": ("right", True),
        "number": ("wrong", False),
        "strange": ("wrong", False),
    }
    assert grades[0].why == "judged by wise (not equal by math-verify)"
    assert grades[5].why == "not equal by math-verify"
    assert manifest.counts["not_judged"] == 1
    assert len(asked) == 4, "two questions, and a third twice because its answer was of no use"
    assert "First answer: (0,1)" in asked[0]


def test_nobody_is_asked_by_default(tmp_path, generated):
    grades, manifest = evaluate(tmp_path, generated("g", {"b": {"base": ROWS}}), None)
    assert [grade.correct for grade in grades] == [False, False, False, True, False, False]
    assert "not_judged" not in manifest.counts


def test_a_judge_without_an_address_is_refused():
    with pytest.raises(ConfigError, match=r"endpoint\.url and endpoint\.model are needed"):
        Judge(JudgeSettings())


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("Judgement: yes", "yes"),
        ("**Judgment:** No.", "no"),
        ("Judgement: no\nJudgement: yes", "yes"),
    ],
)
def test_the_last_judgement_counts(said, verdict):
    assert read_verdict({"choices": [{"message": {"content": said}}]}) == verdict
