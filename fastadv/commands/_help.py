"""What ``--help`` and ``--help-all`` print: options in groups, most used first, and examples."""

import re
import shutil
import textwrap
from argparse import SUPPRESS, Action
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from ..attacks import ATTACKS

_WIDTH = 100  # where lines end at the latest
_LISTS = (
    "attacks",
    "norms",
    "libraries",
    "sweep",
    "steps",
    "certify",
    "corruptions",
    "severities",
    "layers",
    "classes",
    "log",
)
_VALUES = {
    "out": "FOLDER",
    "save_samples": "FOLDER",
    "folder": "FOLDER",
    "config": "FILE",
    "test": "FILE",
    "print_config": "",
    "trusted": "true|false",
}
_KNOWN = {
    "help": "Show the most used options and exit.",
    "config": "Read settings from a YAML file; flags override it.",
    "test": "Read settings of the test from a YAML file.",
    "print_config": "Print all settings as YAML and exit.",
    "attack.help": "List the options of an attack, such as --attack.steps, and exit.",
    "version": "Print the version and exit.",
}


@dataclass(frozen=True)
class Group:
    """Options under one `title`: the `first` are in ``--help``, ``--help-all`` adds `more`; names, most used first."""

    title: str
    first: str
    more: str = ""


DATA = Group("Data", "data device", "folder download resize crop")
NETWORK = Group(
    "Data and network", "data model device", "augment extra extra_share per_class held_out weights mean std cosine"
)
FILES = Group("Files of the data set", "", "folder download resize crop")
TRAINING = Group(
    "Training",
    "epochs batch_size lr eps optimizer schedule",
    "milestones lr_decay warmup eps_warmup label_smoothing weight_decay clip ema ema_batch_norm awp minutes patience "
    "collapse guard",
)
SPEED = Group(
    "Speed, memory and precision",
    "",
    "precision compiled graphs memory_format accumulate checkpointing sharded sync_batch_norm at_once test.at_once",
)
ATTACK = Group("Test", "attacks eps limit", "label theta at_once")
TEST = Group("Test", "test.attacks test.limit", "test.eps test.label test.theta test")
RUN = Group("Run", "out resume estimate", "seed save_every keep_every log")
SETTINGS = Group("Settings", "", "config print_config trusted")


def help_text(parser: Any, groups: Sequence[Group], examples: Sequence[str], whole: bool) -> str:
    """The help of `parser`; `whole` has every option, else those are missing that `groups` show in ``--help-all``."""
    program = parser.prog.replace(" [options]", "")
    positionals = [action for action in parser._actions if not action.option_strings]
    usage = " ".join([program, *map(_argument, positionals), "[options]"])
    parts = [f"usage: {usage}\n"]
    if parser.description:
        parts.append("\n".join(_wrapped(parser.description)) + "\n")
    if commands := parser._subcommands_action:
        title = "Methods" if commands.dest == "method" else "Commands"
        lines = [_line(f"  {each.dest}", each.help or "", 19) for each in commands._choices_actions]
        parts.append("\n".join([f"{title}:", *lines]) + "\n")
    elif positionals:
        lines = [_line(f"  {_argument(action)}", _told(action, whole)) for action in positionals]
        parts.append("\n".join(["Arguments:", *lines]) + "\n")
    hidden = 0
    for title, first, more in _grouped(parser, groups):
        shown = [*first, *more] if whole else first
        hidden += len(first) + len(more) - len(shown)
        lines = [_line(f"  {_typed_flag(action)}", _told(action, whole)) for action in shown]
        if lines:
            parts.append("\n".join([f"{title}:", *lines]) + "\n")
    if examples:
        parts.append("\n".join(["Examples:", *(f"  {example}" for example in examples)]) + "\n")
    if parser._subcommands_action:
        parts.append(f"{program} {parser._subcommands_action.metavar} --help describes one of them.\n")
    elif hidden:
        parts.append(f"{program} --help-all lists {hidden} more options.\n")
    return "\n".join(parts)


def _grouped(parser: Any, groups: Sequence[Group]) -> Iterator[tuple[str, list[Action], list[Action]]]:
    """The options of `parser` by title; those that no group names come after the first group, and are all shown."""
    left = {action.dest: action for action in parser._actions if action.option_strings and action.help != SUPPRESS}
    help_flags = [left.pop(name) for name in ("help", "help_all", "version") if name in left]
    found = []
    for group in groups:
        parts = [[left.pop(name) for name in names.split() if name in left] for names in (group.first, group.more)]
        found.append((group.title, *parts))
    attack_help = [left.pop("attack.help")] if "attack.help" in left else []
    own = [left.pop("attack")] if "attack" in left else []
    title = f"Options of {parser.prog.rpartition(' ')[2]}" if groups else "Options"
    yield from found[:1]
    yield title, [*own, *left.values()], attack_help
    yield from found[1:]
    yield "Help", [] if groups else help_flags, help_flags if groups else []


def _argument(action: Action) -> str:
    """How a positional argument is written: in brackets where it may be missing, with dots where several may follow."""
    name = str(action.metavar or action.dest.upper())
    return {"+": f"{name} ...", "*": f"[{name} ...]"}.get(str(action.nargs), name)


def _typed_flag(action: Action) -> str:
    """An option as it is typed, with what it takes."""
    flags = [flag for flag in action.option_strings if not flag.endswith("+")]
    name = "-h, --help" if action.dest == "help" else flags[0].replace("_", "-")
    return f"{name} {_value(action)}".rstrip()


def _value(action: Action) -> str:
    """What an option takes: N is a whole number, X any number."""
    name = action.dest.rpartition(".")[2]
    if action.nargs == 0 or action.dest in ("help", "help_all", "version"):
        return ""
    if name in _VALUES:
        return _VALUES[name]
    hint = getattr(action, "_typehint", None)
    if action.dest == "attack":
        return "NAME"
    if action.dest == "attack.help":
        return "[NAME]"
    if name in _LISTS and hint is not int:
        return "A,B"
    return "|".join(dict.fromkeys(_kinds(hint))) or "NAME"


def _kinds(hint: Any) -> Iterator[str]:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        yield from parts
    elif origin is list:
        yield f"[{next(_kinds(parts[0]))},...]"
    elif parts:
        for part in parts:
            yield from _kinds(part)
    elif hint is bool:
        yield "BOOL"
    elif isinstance(hint, type) and issubclass(hint, int | float):
        yield "N" if hint is int else getattr(hint, "shown", "X")
    elif hint is str:
        yield "NAME"


def _told(action: Action, whole: bool) -> str:
    """What an option does and its default; the first sentence of it, or the `whole`."""
    text = _KNOWN.get(action.dest) or " ".join((action.help or "").replace("``", "").replace("`", "").split())
    if action.dest in _KNOWN:
        return text
    if not whole:
        text = re.split(r"(?<=[^.]\.)\s", text)[0]
    text = text[:1].upper() + text[1:]
    default = _default(action.default, whole)
    if default and not action.required:
        text = f"{text} (default: {default})" if whole else f"{text.rstrip('.')} ({default})."
    return text


def _default(value: Any, whole: bool) -> str:
    """A default in words; empty for one that stands for "none"."""
    if value is None or value in (SUPPRESS, "", [], False):
        return ""
    if isinstance(value, bool):
        return "true"
    if isinstance(value, int | float):
        return f"{value:g}" if value else ""
    if hasattr(value, "class_path"):
        value = value.as_dict()
    if isinstance(value, dict) and "class_path" in value:
        return _attack(value["class_path"].rpartition(".")[2], value.get("init_args", {}), whole)
    text = str(value)
    if len(text) > 50:  # a list, which is broken after its commas
        return text.replace(",", ", ") if whole else ""
    return text


def _attack(name: str, options: dict[str, Any], whole: bool) -> str:
    """An attack with its sizes and steps, and, in the `whole` help, whatever else differs from its usual settings."""
    kind = next(kind for kind in ATTACKS.values() if kind.__name__ == name)
    usual = vars(kind())
    main = ("eps", "steps")
    shown = [key for key in main if key in options]
    shown += [key for key, value in options.items() if whole and key not in main and value != usual.get(key)]
    values = [f"{options[key]:.3g}" if isinstance(options[key], float) else str(options[key]) for key in shown]
    return ", ".join([name, *map(" ".join, zip(shown, values, strict=True))])


def _line(left: str, text: str, column: int = 24) -> str:
    """What is typed, and from `column` on what it does; below it where it is too long."""
    lines = _wrapped(text, column) or [""]
    if len(left) > column - 2:
        return "\n".join([left, *lines])
    return "\n".join([left.ljust(column) + lines[0].lstrip(), *lines[1:]]).rstrip()


def _wrapped(text: str, indent: int = 0) -> list[str]:
    width = max(40, min(shutil.get_terminal_size().columns, _WIDTH))
    space = " " * indent
    return textwrap.wrap(text, width, initial_indent=space, subsequent_indent=space, break_on_hyphens=False)
