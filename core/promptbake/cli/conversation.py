"""`promptbake chat` on a terminal: the conversation and its commands."""

from __future__ import annotations

import sys
from typing import cast, get_args

from promptbake.cli.console import out
from promptbake.errors import BakeError
from promptbake.stages.chat import Chat
from promptbake.types import ARM_LABELS, Arm

HELP = f"""\
/arm NAME     talk to another arm: {", ".join(get_args(Arm))}; the conversation begins anew
/system TEXT  set the system prompt; without TEXT, show it; `/system -` removes it
/help         show this
/exit         leave (also Ctrl-D); Ctrl-C stops a reply"""
NO_TEXT = "-"


def talk(chat: Chat, message: str | None) -> None:
    """Answer one message, or hold a conversation until its end."""
    if message is not None:
        _stream(chat, message)
        return
    if sys.stdin.isatty():
        out.print(f"{_who(chat)}; /help lists the commands", style="dim")
    while (text := _read()) is not None:
        name, _, argument = text.partition(" ")
        if name == "/exit":
            return
        if name.startswith("/"):
            _command(chat, name, argument.strip())
        elif text:
            _answer(chat, text)


def _read() -> str | None:
    """What was typed; None at the end of the input, and for Ctrl-C where nothing is generated."""
    try:
        return out.input("you: " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        out.print()
        return None


def _command(chat: Chat, name: str, argument: str) -> None:
    if name == "/arm":
        try:
            chat.switch(cast(Arm, argument.replace("-", "")))  # which it checks
            out.print(_who(chat), style="dim")
        except BakeError as error:
            out.print(str(error))
    elif name == "/system":
        if argument:
            chat.system = None if argument == NO_TEXT else argument
        out.print(chat.system or "no system prompt", style="dim")
    else:
        out.print(HELP if name == "/help" else f"{name}: unknown command\n{HELP}")


def _who(chat: Chat) -> str:
    prompt = "with a system prompt" if chat.system else "without a system prompt"
    return f"the {ARM_LABELS[chat.arm]} model, {prompt}"


def _answer(chat: Chat, text: str) -> None:
    try:
        _stream(chat, text)
    except KeyboardInterrupt:
        out.print("\n(stopped)", style="dim")


def _stream(chat: Chat, text: str) -> None:
    for piece in chat.say(text):
        out.write(piece)
    out.print()
    if chat.stop_reason == "length" and sys.stdout.isatty():
        out.print("(stopped at --max-tokens)", style="dim")
