"""The commands of a chat: `/help` and the others."""

from __future__ import annotations

from collections.abc import Iterator

from ..chat.conversation import Content, Conversation, text_of
from ..chat.typed import Message
from ..errors import ConfigurationError
from . import chat_files as files
from .chat_session import PROMPT, Chat, Does, note

__all__ = ["COMMANDS", "load_file"]


def _help(chat: Chat, argument: str) -> None:
    """What can be typed."""
    width = max(len(usage) for usage, _, _ in _SHOWN)
    note("\n".join(f"{usage:<{width}}  {what}" for usage, what, _ in _SHOWN))
    note(_HELP)


def _exit(chat: Chat, argument: str) -> None:
    """Leave."""
    chat.leaving = True


def _stop(chat: Chat, argument: str) -> None:
    """While an answer runs `typing_ahead` has it."""
    note("(no answer is running; while one runs, /stop and Ctrl-C stop it)")


def _retry(chat: Chat, argument: str) -> Content:
    """The latest question again."""
    question = chat.conversation.last_question()
    if question is None:
        raise ConfigurationError("there is no question to ask again")
    chat.conversation.ask(question, again=True)
    return question


def _edit(chat: Chat, argument: str) -> Content | None:
    """The latest question, changed."""
    question = chat.conversation.last_question()
    if question is None:
        raise ConfigurationError("there is no question to edit")
    text = argument or _in_editor(chat, text_of(question))
    if not text.strip():
        raise ConfigurationError("nothing was asked: the question is empty")
    changed = chat.content(Message(((text, bool(argument)),)))
    if isinstance(question, list):
        media = [part for part in question if part.get("type") != "text"]
        more = [{"type": "text", "text": changed}] if isinstance(changed, str) else changed
        changed = [*media, *more]
    chat.conversation.ask(changed, again=True)
    return changed


def _in_editor(chat: Chat, text: str) -> str:
    if chat.interrupts is None:
        raise ConfigurationError("give the new question: /edit TEXT")
    if files.editor():
        with chat.interrupts.ignored():
            return files.edited(text)
    if "\n" in text:
        raise ConfigurationError(
            "a question of several lines is edited in an editor: set EDITOR, or write /edit TEXT"
        )
    return chat.lines.read(PROMPT, prefill=text)


def _save(chat: Chat, argument: str) -> None:
    """Write the conversation to a file."""
    force, _, rest = argument.partition(" ") if argument.startswith("-f") else ("", "", argument)
    if force not in ("", "-f"):
        force, rest = "", argument
    name = _file_name(rest) or chat.file
    if name is None:
        raise ConfigurationError("give a file: /save FILE")
    over = bool(force) or name == chat.file
    files.save(name, chat.conversation, chat.origin.model, over=over)
    chat.file = name
    note(f"(saved: {name})")


def load_file(chat: Chat, argument: str) -> None:
    """Go on with a conversation of a file."""
    name = _file_name(argument)
    if not name:
        raise ConfigurationError("give a file: /load FILE")
    conversation, model = files.load(name)
    origin = chat.origin
    if model and not chat.model_is_given and conversation.fits(model, origin):
        origin = chat.origin_of(model)
    if chat.system_is_given:
        conversation.system = chat.conversation.system
    chat.conversation, chat.file, chat.origin = conversation, name, origin
    count = len(conversation.exchanges)
    note(f"(loaded: {name}, {count} {'answer' if count == 1 else 'answers'})")
    last = conversation.exchanges[-1] if count else None
    if last is not None and last.origin.model and last.origin != origin:
        note(f"(it was with {last.origin.model}; {origin.model} is sent its text)")
    else:
        note(f"(model: {origin.model})")
    if last is not None:
        note(f"{PROMPT}{text_of(last.question)}\n{last.text}")


def _model(chat: Chat, argument: str) -> None:
    """Show or choose the model."""
    if argument:
        chat.origin = chat.origin_of(argument)
    note(f"(model: {chat.origin.model})")


def _system(chat: Chat, argument: str) -> None:
    """Show or set the system prompt."""
    if argument == "-":
        chat.conversation.system = None
    elif argument:
        chat.conversation.system = argument
    note(f"(system prompt: {chat.conversation.system or 'none'})")


def _tokens(chat: Chat, argument: str) -> None:
    """What was used so far."""
    note(f"({chat.tally.sentence()})")


def _clear(chat: Chat, argument: str) -> None:
    """Begin anew."""
    chat.conversation = Conversation(chat.conversation.system)
    chat.file = None
    note("(a new conversation)")


def _file_name(argument: str) -> str:
    """A file's name, which may be in quotes."""
    name = argument.strip()
    if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1]
    return name.replace("\\ ", " ")


# How a command is written, what it does, and who does it.
_SHOWN: tuple[tuple[str, str, Does], ...] = (
    (
        "/retry",
        "ask the latest question again; the new answer takes the old one's place",
        _retry,
    ),
    ("/edit [TEXT]", "change the latest question, in the editor of EDITOR, and ask it", _edit),
    ("/stop", "while an answer runs: stop it, as Ctrl-C does; what arrived stays", _stop),
    ("/save [-f] [FILE]", "write the conversation to a file that only you can read", _save),
    ("/load FILE", "go on with a saved conversation", load_file),
    ("/model [NAME]", "show or choose the model", _model),
    ("/system [TEXT]", "show or set the system prompt; - removes it", _system),
    ("/tokens", "tokens and cost so far", _tokens),
    ("/clear", "begin a new conversation", _clear),
    ("/help", "this", _help),
    ("/exit, /quit", "leave, as Ctrl-D does, or Ctrl-C twice", _exit),
)
_HELP = (
    '@notes.txt attaches a file (text, image, PDF; @"my notes.txt" with spaces); @@ is an @.\n'
    'A line that ends with \\ goes on in the next; """ begins and ends a block; what is pasted as '
    "several lines is one message. // is a /."
)


def _alone(name: str, does: Does) -> Does:
    """A command that nothing follows. What does is a mistake, or a message."""

    def do(chat: Chat, argument: str) -> Content | None:
        if argument:
            raise ConfigurationError(
                f"/{name} takes nothing after it (a message that begins with / is written with //)"
            )
        return does(chat, argument)

    return do


def _named(usage: str, does: Does) -> Iterator[tuple[str, Does]]:
    words, argument, _ = usage.partition(
        " FILE" if " FILE" in usage and " [" not in usage else " ["
    )
    for word in words.split(","):
        name = word.strip().lstrip("/")
        yield name, does if argument else _alone(name, does)


COMMANDS: dict[str, Does] = {
    name: do for usage, _, does in _SHOWN for name, do in _named(usage, does)
}
COMMANDS["?"] = COMMANDS["help"]
