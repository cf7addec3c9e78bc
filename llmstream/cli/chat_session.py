"""A chat that goes on: lines in, answers painted and kept."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .._core.dialects import APIS
from .._core.terminal import for_terminal
from ..chat.attachments import content_of, split_names
from ..chat.conversation import Content, Conversation, Origin, kept_turn
from ..chat.tally import Tally
from ..chat.typed import Assembler, Message, parse
from ..chat.typed import Command as Typed
from ..client import Client
from ..errors import Cancelled, ConfigurationError
from ..result import Result
from .chat_answer import Answered, Interrupts, read_answer, typing_ahead
from .chat_files import attach
from .chat_input import Lines
from .exit_codes import exit_code
from .output import remark, report_error
from .painter import painter_for
from .words import in_options

__all__ = ["PROMPT", "Chat", "Does", "note"]

PROMPT, _GOES_ON, _IN_BLOCK = "> ", ". ", '" '
_LEAVE = "Ctrl-C again, Ctrl-D or /exit leaves"
_CONTINUED = 10  # times, at most, that an answer goes on by itself where the service pauses it

# A command: is given the chat and its argument; returns the question that it has put, or None.
# Raises ConfigurationError, whose message is shown.
Does: TypeAlias = "Callable[[Chat, str], Content | None]"


class Chat:
    """The conversation, its client, and what the commands do.

    Args:
        client: the service.
        model: the model that is asked for.
        asked: arguments of `Client.stream` for every answer.
        lines: what is typed.
        interrupts: what Ctrl-C does; None where it ends the program.
        plain: an answer is painted as text, also on a terminal.
        commands: the name of a command -> what it does; see `Does`.
    """

    def __init__(
        self,
        client: Client,
        model: str | None,
        asked: dict[str, Any],
        lines: Lines,
        interrupts: Interrupts | None,
        plain: bool,
        commands: Mapping[str, Does],
    ) -> None:
        system = asked.pop("instructions", None)
        self.conversation = Conversation(system)
        # What the command line says counts more than what a file says.
        self.system_is_given = system is not None
        self.model_is_given = model is not None
        self.tally = Tally()
        self.file: str | None = None  # what it was saved to, or loaded from
        self.leaving = False
        self.code = 0  # of the latest answer
        self._client = client
        self._asked = asked
        self.lines = lines
        self.interrupts = interrupts
        self._plain = plain
        self._commands = commands
        self.origin = self.origin_of(model)

    # -- the loop

    def run(self) -> int:
        """Until its reader leaves; returns the exit code of the latest answer."""
        leaves = False
        while not self.leaving:
            try:
                self.turn()
                leaves = False
            except EOFError:
                if self.interrupts is not None:
                    note("")
                break
            except KeyboardInterrupt:
                if self.interrupts is None:
                    raise
                if leaves and not self.interrupts.line:
                    note("")
                    break
                leaves = True
                note(f"\n({_LEAVE})")
        return self.code

    def turn(self) -> None:
        """One message or command. Raises EOFError at the end."""
        try:
            message = self._message()
            if message is None:
                return
            typed = parse(message)
            if isinstance(typed, Typed):
                question = self._command(typed)
            else:
                question = self.content(typed)
                self.conversation.ask(question)
            if question is not None:
                self._answer()
        except ConfigurationError as error:  # nothing was sent
            self.code = exit_code(error)
            remark(in_options(error))

    def _message(self) -> Message | None:
        assembler = Assembler()
        raw: list[str] = []
        message = None
        while message is None:
            prompt = _IN_BLOCK if assembler.in_block else _GOES_ON if raw else PROMPT
            try:
                line = self.lines.read(prompt)
            except EOFError:
                if not assembler.is_open:
                    raise
                self.leaving = self.interrupts is None
                if self.interrupts is None:
                    raise ConfigurationError(
                        "the input ends within a message of several lines, which was not sent"
                    ) from None
                message = assembler.end()
                note("")
                break
            raw.append(line)
            message = assembler.feed(line)
            if message is None and not assembler.is_open:
                return None  # an empty line
        self.lines.remember("\n".join(raw))
        return message

    def content(self, message: Message) -> Content:
        """What is asked, with its attachments; says what they are."""
        message, names = split_names(message)
        attached = [attach(readings) for readings in names]
        content = content_of(message.text, attached)
        for file in attached:
            note(f"(attached: {file.name}, {file.kind}, {file.size:,} bytes)")
        return content

    # -- an answer

    def _answer(self) -> None:
        """Ask the open question, and keep the answer."""
        interrupts, ahead = self.interrupts, self.lines.ahead
        answers: list[Answered] = []
        with contextlib.ExitStack() as stack:
            if interrupts is not None and ahead is not None:
                stack.enter_context(typing_ahead(ahead, interrupts.stop))
            try:
                text, refused = self._keep(answers)
            finally:
                if interrupts is not None:
                    interrupts.end()
            last = answers[-1]
            self.code = 0 if last.error is None or last.stopped else exit_code(last.error)
            for answered in answers:  # the first time takes a while: prices are imported
                self._count(answered.result)
            self._report(last, bool(text.strip()), refused)

    def _keep(self, answers: list[Answered]) -> tuple[str, bool]:
        """Ask, and again as long as the service pauses the answer. Returns what was shown, and
        whether it is a refusal; the whole is kept in the conversation."""
        text, turn = "", ()
        while True:
            answered = self._ask(turn)
            answers.append(answered)
            text += answered.text
            if answered.error is not None:
                turn = ()
                break
            kept = kept_turn(answered.result, answered.text)
            turn = (*turn, *kept)
            is_paused = bool(kept) and answered.result.finish == "pause"
            stopped = self.interrupts is not None and self.interrupts.stopped
            if not is_paused or stopped or len(answers) > _CONTINUED:
                break
        refused = answered.error is None and answered.result.finish == "refusal"
        if (text.strip() or turn) and not refused:
            self.conversation.answer(text, turn, self.origin)
        return text, refused

    def _ask(self, turn: tuple[Any, ...]) -> Answered:
        stream = self._client.stream(
            [*self.conversation.prompt(self.origin), *turn],
            model=self.origin.model,
            instructions=self.conversation.system,
            **self._asked,
        )
        painter = painter_for(sys.stdout, plain=self._plain)
        return read_answer(stream, painter, self.interrupts)

    def _count(self, result: Result) -> None:
        cost = None
        with contextlib.suppress(ConfigurationError):  # without the extra `cost`
            cost = result.cost()
        self.tally.add(result, APIS[self.origin.api].cached_beside, cost)

    def _report(self, answered: Answered, has_text: bool, refused: bool) -> None:
        error, result = answered.error, answered.result
        if answered.stopped:
            note(
                "(stopped: what stands above stays in the conversation as the answer; /retry asks "
                "again)"
                if has_text
                else "(stopped before the answer: the question is not in the conversation; /retry "
                "asks it again)"
            )
        elif error is not None:
            report_error(error)
            note(
                "(the part above stays in the conversation as the answer; /retry asks again)"
                if has_text
                else "(the question is not in the conversation; /retry asks it again)"
            )
        elif refused:
            note("(refused: not kept in the conversation; /edit changes the question)")
        elif not has_text and not result.tool_calls:
            note("(the answer has no text; /retry asks again)")
        elif result.finish == "length":
            note("(cut by the limit of tokens; --max-tokens allows more)")
        elif result.finish == "content_filter":
            note("(cut by the service's filter)")
        for call in result.tool_calls:
            note(f"(the model asks for the tool {call.name}; this chat runs none)")

    # -- what the commands use

    def origin_of(self, model: str | None) -> Origin:
        """Who answers. Raises ConfigurationError for what cannot be asked."""
        stream = self._client.stream("?", model=model, **self._asked)
        name = model or stream.model
        stream.cancel("it only says who would answer")
        try:
            service = stream.result().service
        except Cancelled as cancelled:  # nothing was sent
            service = cancelled.partial.service
        return Origin(self._client.settings.api, service.host if service else "", name)

    def _command(self, typed: Typed) -> Content | None:
        known = self._commands.get(typed.name)
        if known is None:
            raise ConfigurationError(
                f"/{typed.name} is no command: /help lists them; a message that begins with / is "
                "written with //"
            )
        return known(self, typed.argument)


def note(text: str) -> None:
    """A remark of the chat, on stderr: standard output has the answers alone."""
    stream = sys.stderr
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):
        stream.write((for_terminal(text) if stream.isatty() else text) + "\n")
        stream.flush()
