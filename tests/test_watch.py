"""The page that follows runs: what it serves, to whom, and what becomes of it while a run goes on."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlox.cli import main
from rlox.errors import ConfigError
from rlox.runs.watch import FIRST_PORT, Watch
from written import append, evaluated, write_run


class Asking:
    """A server of our own in a thread, and how to ask it."""

    def __init__(self, server: Watch):
        self.server, self.port = server, server.server_address[1]

    def __call__(self, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        found = answer.status, dict(answer.headers), answer.read()
        connection.close()
        return found

    def news(self) -> dict[str, Any]:
        self.server._rests_until = 0.0
        return json.loads(self("/data.json")[2])


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Asking]:
    (tmp_path / "runs").mkdir()
    with Watch([tmp_path / "runs"]) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield Asking(server)
        server.shutdown()


def test_the_page_fills_from_before_the_first_run_to_its_last_record(ask: Asking, tmp_path: Path):
    status, _, page = ask()
    assert status == 200
    assert b"<title>Waiting for a run</title>" in page
    assert b"data-live" in page
    assert ask.news()["title"] == "Waiting for a run"
    run = write_run(tmp_path / "runs" / "a")
    assert "There are no records yet." in ask.news()["parts"]["lead"]
    append(run.path, *evaluated([3.0]))
    news = ask.news()
    assert news["title"] == "awr on CartPole-v1"
    assert news["curves"]["charts"]["0 env_steps eval/mean_reward"]["lines"][0]["middle"] == [0, [3]]
    append(run.path, *evaluated([3.0, 8.0])[1:])
    assert ask.news()["curves"]["charts"]["0 env_steps eval/mean_reward"]["lines"][0]["middle"][1] == [3, 8]


def test_news_are_made_once_until_a_file_changes_and_then_at_leisure(ask: Asking, tmp_path: Path):
    run = write_run(tmp_path / "runs" / "a", evaluated([3.0]))
    first = ask("/data.json")
    assert ask("/data.json", If_None_Match=first[1]["ETag"]) == (
        304,
        ask("/data.json", If_None_Match=first[1]["ETag"])[1],
        b"",
    )
    append(run.path, *evaluated([3.0, 8.0])[1:])
    ask.server._rests_until = float("inf")
    assert ask("/data.json")[2] == first[2]
    assert len(ask.news()["curves"]["steps"][0]) == 2


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{}", "127.0.0.1.evil.example", "127.0.0.1:1", "[::1", "", "a@evil"]
)
def test_a_page_that_points_its_name_here_gets_nothing(ask: Asking, tmp_path: Path, host: str):
    write_run(tmp_path / "runs" / "secret", evaluated([3.0]))
    for path in ("/", "/data.json"):
        status, _, body = ask(path, Host=host.format(ask.port))
        assert status == 403
        assert b"secret" not in body


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "localhost:{}", "LOCALHOST:{}", "localhost"])
def test_this_machine_is_answered(ask: Asking, host: str):
    assert ask("/", Host=host.format(ask.port))[0] == 200


@pytest.mark.parametrize(
    "path", ["/a/config.json", "/../a/config.json", "/%2e%2e/etc/passwd", "//etc/passwd", "/data", "/index.html"]
)
def test_nothing_but_the_page_and_its_data_is_served(ask: Asking, tmp_path: Path, path: str):
    write_run(tmp_path / "runs" / "a", evaluated([3.0]))
    assert ask(path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_sent(ask: Asking, method: str):
    status, headers, _ = ask("/", method)
    assert status == 501
    assert not any("allow-origin" in name.lower() for name in headers)


def test_other_pages_cannot_read_or_frame_it(ask: Asking):
    for path in ("/", "/data.json"):
        _, headers, _ = ask(path)
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers


def test_it_listens_to_this_machine_only(ask: Asking):
    assert ask.server.socket.getsockname()[0] == "127.0.0.1"
    assert ask.port >= FIRST_PORT


def test_a_file_that_cannot_be_read_is_said_and_the_next_answer_is_good(ask: Asking, tmp_path: Path):
    run = write_run(tmp_path / "runs" / "a", evaluated([3.0]))
    whole = (run.path / "config.json").read_text()
    (run.path / "config.json").write_text("{")
    status, _, body = ask("/data.json")
    assert (status, body.count(b"\n")) == (503, 1)
    assert b"cannot be read" in body
    (run.path / "config.json").write_text(whole)
    assert ask.news()["title"] == "awr on CartPole-v1"


def test_two_watches_have_ports_of_their_own_and_a_port_in_use_is_said(ask: Asking, tmp_path: Path):
    with Watch([tmp_path / "runs"]) as other:
        assert other.server_address[1] != ask.port
    with pytest.raises(ConfigError, match=rf"^Port {ask.port} cannot be used \(.*\): name another --port, or none"):
        Watch([tmp_path / "runs"], ask.port)
    with pytest.raises(ConfigError, match=r"^--port 70000 must be between 0 and 65535\.$"):
        Watch([tmp_path / "runs"], 70_000)


def test_what_cannot_be_watched_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for args, told in (
        (
            [str(tmp_path / "nothing")],
            "nothing' is not a folder: name that of a run, or one that runs are written below.\n",
        ),
        ([], "rlox: error: Name the folder of a run, or one that has runs below it.\n"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["watch", *args])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert error.endswith(told)
        assert error.count("\n") == 1


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_the_command_in_one_line(tmp_path: Path):
    write_run(tmp_path / "run", evaluated([3.0]))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "rlox", "watch", str(tmp_path / "run"), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert told == f"Watch {tmp_path / 'run'} at http://127.0.0.1:{port}/ (Ctrl-C ends it).\n"
        os.kill(process.pid, signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (130, "", "rlox: interrupted.\n")
