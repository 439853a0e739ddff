# SPDX-License-Identifier: Apache-2.0
"""What compare.py is made of, but for the programs that it measures: their place takes a worker of a few lines."""

import gzip
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from comparison import options, plot, speed, stepping, table, texts
from comparison.work import Failed, Job, Progress, Results, Worker, run

WORKER = """
import sys
from comparison.workers.protocol import Lines

lines, calls = Lines(), []

def double(task, progress):
    calls.append(task["number"])
    progress(0.5)
    print("a library that talks")
    return {"twice": 2 * task["number"], "calls": len(calls)}

def refuse(task, progress):
    raise ValueError("not today\\nnor tomorrow")

def leave(task, progress):
    print("out of memory", file=sys.stderr)
    sys.stderr.flush()
    import os
    os._exit(3)

def timed(task, progress):
    return {"seconds": {"window_sum": 1.0, "snap_kv": 3.0}[task["policy"]], "tokens": task.get("new_tokens", 0)}

lines.serve({"version": "1"}, {"double": double, "refuse": refuse, "leave": leave, "step": timed,
                               "record_step": timed, "decode_open": lambda task, progress: {"prompt_seconds": 1.0},
                               "decode_more": timed, "decode_close": lambda task, progress: {}})
"""


@pytest.fixture
def worker(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    made = Worker("none", pathlib.Path(sys.executable), tmp_path, 1, tmp_path / "worker.log")
    made.command = [sys.executable, str(script)]
    yield made
    made.close()


def job_of(worker, number=1, task="double", **identity):
    return Job("row", worker, {"task": task, "number": number}, "about", 1.0, {"number": number, **identity})


# -- workers and results ----------------------------------------------------------------------------------------------


def test_a_worker_answers_task_after_task(worker):
    shares = []
    assert worker.ready() == {"version": "1"}
    assert worker.do({"task": "double", "number": 4}, shares.append) == {"twice": 8, "calls": 1}
    assert worker.do({"task": "double", "number": 5}) == {"twice": 10, "calls": 2}  # what it printed did not disturb
    assert shares == [0.5]


def test_a_task_that_fails_says_why_and_the_next_one_works(worker):
    with pytest.raises(Failed, match="^ValueError: not today$"):
        worker.do({"task": "refuse"})
    assert worker.do({"task": "double", "number": 1})["twice"] == 2


def test_a_worker_that_dies_is_named_by_its_last_words_and_started_anew(worker):
    worker.do({"task": "double", "number": 1})
    with pytest.raises(Failed, match="out of memory"):
        worker.do({"task": "leave"})
    assert worker.do({"task": "double", "number": 1})["calls"] == 1


def test_what_is_measured_is_not_measured_again(worker, tmp_path, capsys):
    results = Results(tmp_path / "results")
    jobs = [job_of(worker, 1), job_of(worker, 2), job_of(worker, 3, task="refuse")]
    found = run(jobs, results)
    assert [result and result["twice"] for _, result in found] == [2, 4, None]
    assert "not today" in capsys.readouterr().err
    again = run([*jobs[:2], job_of(worker, 1, weights="others")], results)
    assert [result["calls"] for _, result in again] == [1, 2, 3]  # the first two are as they were
    assert not list((tmp_path / "results").glob("*.part"))


def test_rounds_are_kept_one_by_one(worker, tmp_path):
    results = Results(tmp_path / "results")
    task = {"policy": "snap_kv", "new_tokens": 7}
    job = Job("row", worker, task, "about", 1.0, {"policy": "snap_kv"})
    found = speed.measure([job], 3, results)["row"]
    assert len(found) == 3 and all(one["tokens"] == 7 and one["prompt_seconds"] == 1.0 for one in found)
    worker.close()
    worker.command = ["false"]  # nobody is asked again
    assert speed.measure([job], 3, results)["row"] == found


def test_a_row_that_fails_has_no_rounds(worker, tmp_path):
    job = Job("row", worker, {"policy": "unknown", "new_tokens": 7}, "about", 1.0, {"policy": "unknown"})
    assert speed.measure([job], 2, Results(tmp_path / "results")) == {}


def test_steps_are_paired_with_their_peers(worker, tmp_path):
    task = {"inputs": str(tmp_path / "inputs"), "policy": "window_sum"}
    pairs = stepping.compare(worker, {"kvpress": worker}, task, tmp_path / "ids", 2, Progress(2))
    # The worker times two policies: of the pairs with any other there is nothing.
    assert [(pair["ours"], pair["other_seconds"]) for pair in pairs] == [
        ("window_sum", [3.0, 3.0]),
        ("snap_kv", [3.0, 3.0]),
    ]
    (line, _) = table.step_rows(pairs)
    assert line == ["window_sum", "1000.0", "SnapKVPress, window 64", "3000.0", "3.00 (3.00 - 3.00)"]


# -- the table and the plot -------------------------------------------------------------------------------------------


MEASURED = [
    {"program": "transformers", "policy": "full", "loss": 2.0, "tokens_per_second": 5.0, "cache_bytes": 3 * 2**20},
    {"program": "foresightkv", "policy": "tova", "loss": 2.1, "tokens_per_second": 10.0, "evictions": 12},
    {"program": "openvino", "policy": "full", "tokens_per_second": 4.0},
    {"program": "openvino", "policy": "snap_kv", "tokens_per_second": 6.0},
]


def test_ratios_are_to_the_same_engines_full_cache():
    lines = table.rows_of(MEASURED)
    assert [line[3] for line in lines] == ["1.000", "1.050", "-", "-"]
    assert [line[5] for line in lines] == ["1.000", "2.000", "1.000", "1.500"]
    assert lines[0][8] == "3.0" and lines[1][11] == "12" and lines[1][8] == "-"


def test_the_text_has_numbers_to_the_right_and_markdown_its_columns():
    laid_out = table.text(["name", "n"], [["a", "10"], ["long", "2"]])
    assert laid_out.splitlines() == ["name   n", "--------", "a     10", "long   2"]
    assert table.markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_the_plot_has_a_bar_for_each_value_and_says_what_is_missing():
    drawn = plot.svg(MEASURED, "a < b")
    assert drawn.count("<rect") == 1 + 2 + 4 and drawn.count("not measured") == 2 and "a &lt; b" in drawn


# -- texts and options ------------------------------------------------------------------------------------------------


def a_package(folder, name, files):
    root = folder / "root"
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    (root / "DEBIAN").mkdir()
    control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@o.body>\nDescription: none\n"
    (root / "DEBIAN/control").write_text(control)
    subprocess.run(["dpkg-deb", "--build", root, folder / f"{name}_1_all.deb"], check=True, capture_output=True)
    return folder / f"{name}_1_all.deb"


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg-deb")
def test_texts_come_out_of_a_package_once(tmp_path, monkeypatch):
    package = a_package(tmp_path, "docs", {"usr/doc9/a.txt": b"first", "usr/doc9/b.txt.gz": gzip.compress(b"second")})
    fetched = []

    def download(name, folder):
        fetched.append(name)
        shutil.copy(package, folder)

    monkeypatch.setattr(texts, "_download", download)
    kept = tmp_path / "kept"
    members = ["usr/doc*/a.txt", "usr/doc9/b.txt.gz"]
    for _ in range(2):
        assert texts.from_debian("docs", members, kept) == {members[0]: "first", members[1]: "second"}
    assert fetched == ["docs"]
    with pytest.raises(ValueError, match="has no usr/doc9/c.txt"):
        texts.from_debian("docs", ["usr/doc9/c.txt"], kept)


def test_front_matter_is_skipped_up_to_a_paragraph():
    text = "contents\n\n" + "x" * 100 + "\n\nbody"
    assert texts.body(text, 0.5) == "body" and texts.body(text, 0.0).startswith("x")
    assert texts.body("one paragraph", 0.5) == "one paragraph"


def test_a_text_is_cut_to_its_tokens(tmp_path):
    class Tokenizer:
        def __call__(self, text, verbose):
            return type("Found", (), {"input_ids": [ord(letter) for letter in text]})

    made = texts.tokenized("some", "abcdef", 4, Tokenizer(), tmp_path)
    assert made.tokens == 4 and made.ids.name == "some-4.npy"
    with pytest.raises(ValueError, match="has 6 tokens, 7 are needed"):
        texts.tokenized("some", "abcdef", 7, Tokenizer(), tmp_path)


def test_quick_is_short_unless_told_otherwise(capsys):
    quick, full = options.parse(["--quick", "--tokens", "900"]), options.parse([])
    assert (quick.budget, quick.tokens, quick.count) == (256, 900, 1) and (full.budget, full.tokens) == (512, 3072)
    # Every cache holds exactly the budget when decoding begins.
    assert (full.context - full.budget) % full.interval == 0
    for wrong in (["--peers", "nobody"], ["--tokens", "100"], ["--threads", "0"]):
        with pytest.raises(SystemExit):
            options.parse(wrong)
    assert "'nobody' is not one of kvpress, openvino" in capsys.readouterr().err


def test_progress_tells_the_time_left(capsys, monkeypatch):
    times = iter([0.0, 30.0, 60.0])
    monkeypatch.setattr("comparison.work.time.monotonic", lambda: next(times))
    progress = Progress(4.0)
    progress.done = 1.0
    progress.show(0.0, "something")
    progress.done = 3.0
    progress.show(0.0, "something")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(" 25.0 %  1:30 left") and second.startswith(" 75.0 %  0:20 left")


def test_results_are_files_that_say_what_they_are_of(worker, tmp_path):
    results = Results(tmp_path)
    job = job_of(worker, 3)
    assert results.find(job) is None
    results.keep(job, {"loss": 1.0})
    assert results.find(job) == {"loss": 1.0}
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text())["identity"] == {"number": 3}


def test_without_another_program_no_step_is_timed(tmp_path):
    assert stepping.compare(None, {}, {"inputs": str(tmp_path / "none")}, tmp_path, 5, None) == []
