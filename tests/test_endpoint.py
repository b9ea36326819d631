"""The endpoint's client, held against a local server that refuses, dawdles, breaks and talks nonsense."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sae_lib.endpoint import KEY, ChatEndpoint, Nonsense, _text
from sae_lib.errors import BookError

QUESTION = [{"role": "user", "content": "How many?"}]


class Server:
    """A server of the protocol that plays a list of parts, and the last of them for ever after."""

    def __init__(self) -> None:
        self.parts, self.asked, self.keys = ["42"], [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                part = outer.parts[min(len(outer.asked), len(outer.parts) - 1)]
                outer.asked.append(body)
                outer.keys.append(self.headers.get("Authorization"))
                if callable(part):
                    part = part(body)
                if part == "hang":
                    time.sleep(1.0)
                if part == "drop":
                    self.close_connection = True
                    return
                status = part if isinstance(part, int) else 200
                answer = (
                    b"{}" if part == "empty" else json.dumps({"choices": [{"message": {"role": "assistant", "content": part}}]}).encode()
                )
                try:
                    self.send_response(status)
                    if status == 302:
                        self.send_header("Location", "http://127.0.0.1:1/stolen")
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)
                except OSError:
                    pass  # the client has stopped waiting

            def log_message(self, *_args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv(KEY, raising=False)
    running = Server()
    yield running
    running.stop()


def endpoint(server, **settings):
    return ChatEndpoint(server.url, "tiny", **{"timeout_s": 0.4, "n_tries": 3, "wait_s": 0.01} | settings)


def test_it_speaks_the_protocol(server, monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    assert endpoint(server).ask(QUESTION, int) == 42
    assert server.asked == [{"model": "tiny", "messages": QUESTION, "temperature": 0}]
    assert server.keys == ["Bearer secret"]


def test_no_key_is_sent_where_none_is_set(server):
    endpoint(server).ask(QUESTION, int)
    assert server.keys == [None]


@pytest.mark.parametrize("trouble", [500, 429, "hang", "drop", "empty"])
def test_trouble_that_passes_is_waited_for(server, trouble):
    server.parts = [trouble, trouble, "42"]
    assert endpoint(server).ask(QUESTION, int) == 42
    assert len(server.asked) == 3


def test_waits_double(server, monkeypatch):
    waits = []
    monkeypatch.setattr("sae_lib.endpoint.time.sleep", waits.append)
    server.parts = [503]
    with pytest.raises(BookError, match=r"gave nothing in 4 tries .*status 503"):
        endpoint(server, n_tries=4, wait_s=2.0).ask(QUESTION, int)
    assert waits == [2.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, f"set {KEY}"), (404, "check the address"), (302, "check the address"), (400, "check the address"), (422, "check the address")],
)
def test_a_refusal_is_final(server, status, hint, monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    server.parts = [status]
    with pytest.raises(BookError, match=f"refuses.*{status}.*{hint}") as raised:
        endpoint(server).ask(QUESTION, int)
    assert len(server.asked) == 1
    assert "secret" not in str(raised.value)


def test_nobody_there():
    with pytest.raises(BookError, match="gave nothing in 2 tries"):
        ChatEndpoint("http://127.0.0.1:1/v1", "tiny", n_tries=2, wait_s=0.01, timeout_s=0.4).ask(QUESTION, int)


def test_nonsense_is_asked_for_again_at_another_temperature(server):
    server.parts = ["many", "about 40", "42"]
    assert endpoint(server).ask(QUESTION, int) == 42
    assert [asked["temperature"] for asked in server.asked] == [0, 1, 1]


def test_nothing_but_nonsense_is_counted_as_such(server, tmp_path):
    server.parts = ["many"]
    with pytest.raises(Nonsense, match="no usable answer in 3 tries"):
        endpoint(server, kept=tmp_path / "kept.jsonl").ask(QUESTION, int)
    assert not (tmp_path / "kept.jsonl").exists()


@pytest.mark.parametrize("refusal", [400, 413, 422, None])
def test_a_refused_question_is_nonsense_and_the_others_go_on(server, tmp_path, refusal):
    kept, found = tmp_path / "kept.jsonl", []
    server.parts = [lambda body: refusal if "1?" in body["messages"][0]["content"] else "42"]
    asking = endpoint(server, kept=kept)
    for number in range(3):
        try:
            found.append(asking.ask([{"role": "user", "content": f"{number}?"}], int))
        except Nonsense as error:
            found.append(str(error))
    assert [found[0], found[2]] == [42, 42]
    assert ("refuses a question" if refusal else "no text, as where it refuses or calls a tool") in found[1]
    # A refusal in words may be taken back at another temperature, one by the protocol will not.
    assert len(server.asked) == 2 + (1 if refusal else 3)
    assert len(kept.read_text().splitlines()) == 2


def test_a_run_that_broke_off_before_a_refused_question_gets_past_it(server, tmp_path):
    endpoint(server, kept=tmp_path / "kept.jsonl").ask(QUESTION, int)
    server.parts = [400]
    again = endpoint(server, kept=tmp_path / "kept.jsonl")
    assert again.ask(QUESTION, int) == 42
    with pytest.raises(Nonsense, match="refuses a question"):
        again.ask([{"role": "user", "content": "too long"}], int)


def test_an_answer_that_only_calls_a_tool_has_no_text():
    assert _text(b'{"choices": [{"message": {"role": "assistant", "tool_calls": [{}]}}]}') is None
    assert _text(b'{"choices": [{"message": {"content": "42"}}]}') == "42"
    for other in (b'{"choices": [{"message": {"content": ["42"]}}]}', b'{"choices": [{"message": "42"}]}', b'{"choices": []}', b"[", b"[]"):
        with pytest.raises(ValueError, match="has not the form"):
            _text(other)


def test_a_run_that_broke_off_goes_on_where_it_was(server, tmp_path):
    kept, others = tmp_path / "deep" / "kept.jsonl", [[{"role": "user", "content": f"{number}?"}] for number in range(4)]
    server.parts = ["1", "2", 500]
    first = endpoint(server, kept=kept)
    with pytest.raises(BookError, match="2 answers are kept"):
        [first.ask(question, int) for question in others]
    server.parts, server.asked = ["3", "4"], []
    second = endpoint(server, kept=kept)
    assert [second.ask(question, int) for question in others] == [1, 2, 3, 4]
    assert len(server.asked) == 2
    assert len(kept.read_text().splitlines()) == 4


def test_a_line_cut_short_by_a_kill_is_asked_anew(server, tmp_path):
    kept = tmp_path / "kept.jsonl"
    endpoint(server, kept=kept).ask(QUESTION, int)
    whole = kept.read_bytes()
    kept.write_bytes(whole + b'{"question": "abc", "ans')
    again = endpoint(server, kept=kept)
    assert kept.read_bytes() == whole
    again.ask(QUESTION, int)
    assert len(server.asked) == 1


def test_a_kept_answer_that_is_no_longer_taken_is_asked_for_anew(server, tmp_path):
    first = endpoint(server, kept=tmp_path / "kept.jsonl")
    assert first.ask(QUESTION, str) == "42"
    server.parts = ["43", "44"]
    assert first.ask(QUESTION, lambda text: {"44": 44}.get(text) or int("no")) == 44
    assert endpoint(server, kept=tmp_path / "kept.jsonl").ask(QUESTION, int) == 44


def test_another_model_is_another_question(server, tmp_path):
    endpoint(server, kept=tmp_path / "kept.jsonl").ask(QUESTION, int)
    ChatEndpoint(server.url, "large", tmp_path / "kept.jsonl").ask(QUESTION, int)
    assert len(server.asked) == 2


def test_a_damaged_file_names_the_line(tmp_path):
    (tmp_path / "kept.jsonl").write_text('{"question": "a", "answer": "b"}\nnot json\n')
    with pytest.raises(BookError, match=r"line 2 of .*kept\.jsonl is damaged"):
        ChatEndpoint("http://127.0.0.1:1/v1", "tiny", tmp_path / "kept.jsonl")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "localhost:8080", "http://", "ftp://host/v1", "http://user:key@host/v1"])
def test_only_addresses_of_the_web(url):
    with pytest.raises(BookError, match="is no address of an endpoint"):
        ChatEndpoint(url, "tiny")


def test_a_model_must_be_named():
    with pytest.raises(BookError, match="name of a model"):
        ChatEndpoint("http://127.0.0.1:1/v1", "")
