"""The parser of flags and YAML files: exact names, fractions, and one line for what is wrong."""

import argparse
import difflib
import functools
import operator
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, Union, get_args, get_origin

import jsonargparse
from jsonargparse._actions import NonParsingAction
from jsonargparse.typing import register_type
from torch import Tensor

from ..attacks import ATTACKS
from ._help import Group, help_text
from ._trust import Trusted, trust

_PLAIN = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_FRACTION = re.compile(rf"\s*([+-]?{_PLAIN})\s*(?:/\s*({_PLAIN})\s*)?")


class Number(float):
    """How a flag or a YAML file writes a float: 0.1, 1e-3, inf or a fraction such as 8/255."""


def number(text: Any) -> float:
    """The float that `text` is: a number already, or one written as `Number` says. Raises ValueError otherwise."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    if isinstance(text, str) and (found := _FRACTION.fullmatch(text)) and (divisor := float(found[2] or 1)):
        return float(found[1]) / divisor
    if isinstance(text, str) and re.fullmatch(r"\s*[+-]?\.?(?:inf|nan)\s*", text, re.IGNORECASE):
        return float(text.replace(".", ""))
    raise ValueError(f"{text!r} is no number: write 0.1, 1e-3 or a fraction such as 8/255")


class Numbers(float):
    """How a flag or a YAML file writes a float or several: 0.5, or 0.49,0.48,0.45."""

    shown = "X,..."


def numbers(text: Any) -> float | list[float]:
    """The float or floats that `text` is, which commas are between. Raises ValueError for what is none."""
    several = text.strip("[] ").split(",") if isinstance(text, str) and re.search(r"[\[,]", text) else text
    return [number(each) for each in several] if isinstance(several, list) else number(text)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


register_type(Number, float, number, type_check=lambda value, _: type(value) is float)
register_type(
    Numbers,
    lambda value: value,
    numbers,
    type_check=lambda value, _: all(type(each) is float for each in _listed(value)),
)


def _as_written(hint: Any) -> Any:
    """What flags and YAML files have for the type `hint`: `Number` for float, `Numbers` for several, no tensors."""
    if hint in (float, float | list[float]):
        return Number if hint is float else Numbers
    origin, parts = get_origin(hint), tuple(_as_written(part) for part in get_args(hint) if part is not Tensor)
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, parts)
    return origin[parts] if origin in (list, tuple) else hint


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """The error of a name `word` that is none of the `known`: the nearest of them, or all."""
    simple = {_simple(name): name for name in known}
    near = difflib.get_close_matches(_simple(word), simple, n=1)
    hint = f"; did you mean {simple[near[0]]!r}?" if near else f": choose among {', '.join(simple.values())}"
    return f"unknown {what} {word!r}{hint}"


def _simple(name: str) -> str:
    return name.lower().replace("_", "-")


def _typed(text: str) -> str:
    """`text` with its flags as they are typed: --batch-size for --batch_size."""
    return re.sub(r"(?<![\w/-])--[a-z][\w.]*", lambda flag: flag[0].replace("_", "-"), text)


class _HelpAll(NonParsingAction):
    """``--help-all``: every option."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs | {"nargs": 0, "default": argparse.SUPPRESS})

    def __call__(self, parser: "Parser", *_: Any) -> None:
        print(parser.format_help(whole=True), end="")
        parser.exit()


class Parser(jsonargparse.ArgumentParser):
    """Flags are written whole, --batch-size or --batch_size, and methods friendly-trades or friendly_trades.

    Errors are one line on standard error, with exit status 2. `help_groups` order the options in the help, which ends
    with `examples`. `fill` adds the arguments when they are needed first: those of all commands take a second.
    """

    help_groups: Sequence[Group] = ()
    examples: Sequence[str] = ()

    def __init__(self, *args: Any, fill: Callable[["Parser"], None] | None = None, **kwargs: Any):
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)
        self._fill = fill
        self._negative_number_matcher = re.compile(rf"-{_FRACTION.pattern}$")  # what is a value and no flag

    def filled(self) -> "Parser":
        """This parser with its arguments."""
        fill, self._fill = self._fill, None
        if fill:
            fill(self)
        return self

    def arrange(self, groups: Sequence[Group], examples: Sequence[str]) -> None:
        """Orders the help, and adds ``--help-all``, which lists what ``--help`` leaves out, and ``--trusted``."""
        self.help_groups, self.examples = groups, examples
        self.add_argument(
            "--trusted",
            action=Trusted,
            help="false: run no code of models, data or settings. true: also classes of others, and what files name.",
        )
        self.add_argument("--help_all", action=_HelpAll, help="Show all options and exit.")

    def format_help(self, formatter: Any = None, whole: bool = False) -> str:
        """The help: the most used options in groups, or the `whole` of them."""
        return help_text(self.filled(), self.help_groups, self.examples, whole)

    def _add_signature_parameter(self, container: Any, nested_key: str | None, param: Any, *args: Any, **kwargs: Any):
        param.annotation = _as_written(param.annotation)
        return super()._add_signature_parameter(container, nested_key, param, *args, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **kwargs: Any) -> jsonargparse.Namespace:
        self.filled()
        args = [_underscored(arg) for arg in (sys.argv[1:] if args is None else args)]
        if commands := self._subcommands_action:
            if not args:
                self._no_command()
            if (name := args[0].replace("-", "_")) in commands.choices:
                args[0] = name  # no other word: it may be a path
            elif not args[0].startswith("-"):
                self.error(unknown(commands.dest, args[0], commands.choices))
            elif args[0].partition("=")[0] not in self._option_string_actions:
                self.error(f"{args[0]} must follow the {commands.dest} that it is an option of")
        found = super().parse_args(args, *rest, **kwargs)
        if not commands:
            try:  # here, where its names have no prefix; jsonargparse does so from above only
                self.validate(found)
            except (TypeError, KeyError) as error:
                self.error(str(error), error)
        return found

    def _no_command(self) -> NoReturn:
        whole = not hasattr(self, "parent_parser")
        self.print_help(sys.stdout if whole else sys.stderr)
        self.exit(0 if whole else 2)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # of an attack: what it is an option of knows its own name
            super().error(message, ex)
        missing = re.match(r"the following arguments are required: ([\w.]+)", message)
        if missing:  # told by the parser of all commands, which names them: train.pgd.out
            *commands, name = missing[1].split(".")
            of = functools.reduce(lambda parser, command: parser._subcommands_action.choices[command], commands, self)
            of.error(f"{of._shown(name)} is missing")
        program = self.prog.replace(" [options]", "")
        commands = self._subcommands_action
        all_of_them = f"--help lists all {commands.dest}s" if commands else "--help-all lists all options"
        print(f"fastadv: {_typed(self._told(message))} ({program} {all_of_them})", file=sys.stderr)
        self.exit(2)

    def _told(self, message: str) -> str:
        """jsonargparse's `message` in one line, with what may have been meant."""
        keys = re.findall(r"Parser key [\"']([\w.]+)[\"']", message)
        where = self._shown(".".join(keys))
        if found := re.match("unrecognized arguments: (.*)", message, re.DOTALL):
            flags = [word[2:].partition("=")[0] for word in found[1].split() if word.startswith("--")]
            return self._unknown(flags[0]) if flags else f"{found[1]!r} is one argument too many"
        if found := re.search(r"Option '([\w.-]+)' is not accepted", message):
            return self._unknown(".".join([*keys, found[1]]))
        if found := re.search(r"Group '([\w.]+)' does not accept option '([\w.-]+)'", message):
            return self._unknown(f"{found[1]}.{found[2]}")
        if found := re.search(r"Importing '([\w.]+)' is not allowed", message):
            if trust().get("FASTADV_TRUSTED") == "true":
                return f"{where}: {found[1]} runs commands, or code that is written as text, and is always refused"
            return f"{where}: {found[1]} is not fastadv's, and its code would run: to allow that, give --trusted true"
        if found := re.search(r"(?:Got|Given) value: (.*)\s*$", message) or re.search("('.*') is no number", message):
            return f"{where} must be {_expected(message)}, got {found[1].strip()}"
        if found := re.search(r"Expected a dot import path string: (\S+)", message):
            return f"{where}: " + unknown("attack", found[1], [attack.__name__ for attack in ATTACKS.values()])
        return " ".join(re.sub(r"Parser key [\"']([\w.]+)[\"']:", r"--\1:", message).split())

    def _shown(self, name: str) -> str:
        """How the option or argument called `name` is written."""
        positional = any(action.dest == name and not action.option_strings for action in self._actions)
        return name.upper() if positional else f"--{name}"

    def _unknown(self, name: str) -> str:
        """What is said of the name of an option that is none."""
        typed = any(arg.partition("=")[0] == f"--{name}" for arg in self.args)
        show = (lambda option: f"--{_simple(option)}") if typed else repr
        taken = {action.dest for action in self._actions if not action.option_strings}
        names = [key.replace(".init_args", "") for key in self.get_defaults().keys()]  # noqa: SIM118
        known = [each for each in names if each not in taken and not each.endswith("class_path")]
        last = {each: each.rpartition(".")[2] for each in known}
        word = name.rpartition(".")[2].replace("-", "_")
        near = [each for each in known if last[each] == word]
        near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.75)
        near = near or [each for each in known if difflib.get_close_matches(word, [last[each]], cutoff=0.75)]
        hint = f"; did you mean {' or '.join(map(show, near[:3]))}?" if near else ""
        return f"unknown {'option' if typed else 'setting'} {show(name)}{hint}"


def _expected(message: str) -> str:
    """The types that jsonargparse's `message` asks for, in words."""
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "list": "a list"}
    found = []
    for kind, values in re.findall(r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])", message):
        found.append(words.get(kind, kind) if kind else values.replace("'", "").replace(", ", " or "))
    if "is no number" in message:
        found.append("a number such as 0.1 or 8/255")
    return " or ".join(dict.fromkeys(found)) or "of another type"


def _underscored(arg: str) -> str:
    if not arg.startswith("--"):
        return arg
    flag, equals, value = arg[2:].partition("=")
    return "--" + flag.replace("-", "_") + equals + value


def completion(parser: Parser, shell: str) -> str:
    """The script that completes the commands, methods and flags of `parser` in `shell`: bash, zsh or tcsh.

    Raises ImportError without shtab. The parser is of no use afterwards.
    """
    try:
        import shtab
    except ImportError:
        raise ImportError("completion needs shtab. To fix: pip install shtab") from None
    for each in _parsers(parser):
        for action in each._actions:
            action.option_strings = [_typed(flag) for flag in action.option_strings if not flag.endswith("+")]
    return shtab.complete(parser, shell)


def _parsers(parser: Parser) -> Iterator[Parser]:
    yield parser.filled()
    for each in parser._subcommands_action.choices.values() if parser._subcommands_action else ():
        yield from _parsers(each)
