"""Questions to a language model behind any endpoint that speaks OpenAI's chat protocol; what was answered is kept.

A question that fails is asked again, after a wait that doubles; an answer that makes no sense is asked for again as well.
A question that is refused for its own sake has no answer, and the others go on.
Accepted answers go line by line into a file, under a hash of the question, so a run that breaks off and starts again
asks only what was not answered yet.

The key is read from the environment variable `SAE_BOOK_JUDGE_KEY` and is neither shown nor kept.
"""

import contextlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from sae_lib import storage
from sae_lib.errors import BookError

KEY = "SAE_BOOK_JUDGE_KEY"
"""Environment variable with the key that the endpoint asks for; unset where it asks for none."""

_MAX_BYTES = 2**24
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_ABOUT_THE_QUESTION = (400, 413, 422)
"""Of an endpoint that has answered others, these refuse one question: too long for it, or against its rules."""

Message = dict[str, str]
Read = TypeVar("Read")


class Nonsense(BookError):  # noqa: N818  it is what came, not an error of ours
    """The endpoint answered, but nothing that could be used."""


class ChatEndpoint:
    """A model that answers questions.

    Args:
        url: address of the interface, such as `http://127.0.0.1:8080/v1`; `/chat/completions` is appended.
        model: name of the model, as the endpoint knows it.
        kept: JSON-lines file of accepted answers; None keeps them in memory only.
        timeout_s: seconds that an answer may take.
        n_tries: how often a question is put, to an endpoint that fails and to one that answers nonsense.
        wait_s: seconds before the second try; doubled before each further one.

    Raises:
        BookError: the address is none of the web, or the file of kept answers is damaged.
    """

    def __init__(
        self, url: str, model: str, kept: Path | None = None, timeout_s: float = 120.0, n_tries: int = 5, wait_s: float = 1.0
    ) -> None:
        parts = urlsplit(url)
        # Anything else, such as file:, would be opened just as readily.
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise BookError(f"{url!r} is no address of an endpoint; give one such as http://127.0.0.1:8080/v1")
        if not model or n_tries < 1:
            raise BookError(f"an endpoint needs the name of a model and at least 1 try; it was given {model!r} and {n_tries}")
        self.url, self.model, self.kept = url.rstrip("/") + "/chat/completions", model, kept
        self.timeout_s, self.n_tries, self.wait_s = timeout_s, n_tries, wait_s
        self._answers = _load(kept)
        self._has_answered = False
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, messages: Sequence[Message], read: Callable[[str], Read]) -> Read:
        """Put a question until an answer can be read.

        Args:
            messages: `role` and `content` of each.
            read: takes what is wanted from the text of an answer; raises ValueError if that is nonsense.

        Returns:
            What `read` made of the first answer that it took, or of the one that was kept.

        Raises:
            Nonsense: no try brought an answer that could be read, or the endpoint has answered others and refuses this question.
            BookError: the endpoint refuses from the start, or cannot be reached.
        """
        question = storage.fingerprint([self.model, list(messages)])
        if question in self._answers:
            # Or a run that broke off before a question that is refused could never get past it.
            self._has_answered = True
            # What was accepted once may be nonsense to a later version of the book; then it is asked anew.
            with contextlib.suppress(ValueError, RecursionError):
                return read(self._answers[question])
        why = ""
        for attempt in range(self.n_tries):
            # The same question at temperature 0 would bring the same nonsense again.
            answer = self._post({"model": self.model, "messages": list(messages), "temperature": min(attempt, 1)})
            if answer is None:
                why = "it gave no text, as where it refuses or calls a tool"
                continue
            try:
                found = read(answer)
            except (ValueError, RecursionError) as error:
                why = str(error)
                continue
            self._keep(question, answer)
            return found
        raise Nonsense(f"{self.model} gave no usable answer in {self.n_tries} tries ({why}); try another model")

    def _post(self, body: dict) -> str | None:
        """The text of one answer, None if it has none; waits and tries again while the trouble may pass."""
        headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {os.environ[KEY]}"
        why = ""
        for attempt in range(self.n_tries):
            if attempt:
                time.sleep(self.wait_s * 2 ** (attempt - 1))
            request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
            try:
                with self._opener.open(request, timeout=self.timeout_s) as response:
                    text = _text(response.read(_MAX_BYTES))
                    self._has_answered = True
                    return text
            except urllib.error.HTTPError as error:
                with error:
                    why = f"it answered with status {error.code}"
                if error.code in _ABOUT_THE_QUESTION and self._has_answered:
                    raise Nonsense(f"{self.model} refuses a question ({why}); the others go on") from None
                if error.code not in _PASSING:
                    hint = f"set {KEY} to its key" if error.code in (401, 403) else "check the address and the name of the model"
                    raise BookError(f"{self.url} refuses: {why}; {hint}. {self._nothing_lost}") from None
            except (OSError, http.client.HTTPException) as error:
                why = f"{getattr(error, 'reason', None) or error or type(error).__name__}"
            except ValueError as error:
                why = str(error)
        raise BookError(f"{self.url} gave nothing in {self.n_tries} tries ({why}); see whether it runs. {self._nothing_lost}")

    @property
    def _nothing_lost(self) -> str:
        return f"{len(self._answers)} answers are kept; the same command goes on from there"

    def _keep(self, question: str, answer: str) -> None:
        self._answers[question] = answer
        if self.kept is None:
            return
        line = json.dumps({"question": question, "answer": answer}) + "\n"
        try:
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            with open(self.kept, "ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise BookError(
                f"could not write {self.kept}: {error.strerror or error}; free some space and run the same command again"
            ) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    # The key must not follow to another host.
    def redirect_request(self, *_args: object) -> None:
        return None


def _text(content: bytes) -> str | None:
    """The message of an answer in OpenAI's form, None if it has no text; ValueError if it has another form."""
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
        text = json.loads(content)["choices"][0]["message"].get("content")
        if isinstance(text, str | None):
            return text
    raise ValueError("its answer has not the form of OpenAI's chat protocol")


def _load(path: Path | None) -> dict[str, str]:
    """The answers of earlier runs; a last line that was cut short, as a kill leaves it, is taken away."""
    if path is None or not path.exists():
        return {}
    whole, newline, torn = path.read_bytes().rpartition(b"\n")
    if torn:
        storage.write_atomic(path, whole + newline)
    answers = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            record = json.loads(line)
            answers[record["question"]] = str(record["answer"])
        except (ValueError, LookupError, TypeError):
            raise BookError(f"line {number} of {path} is damaged; delete that line, and its question is asked again") from None
    return answers
