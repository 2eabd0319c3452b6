"""A service's settings: flags, environment, file; validated once at start, with errors that name the key.

A flag counts before its environment variable, that before the file, the file before the default.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LEVELS = ("debug", "info", "warning", "error")

EPILOG = """Each setting can also stand in the configuration file (YAML, same names) or in the environment:
--{example} is {variable}. A flag counts before the environment, that before the file."""


class ConfigError(Exception):
    """A setting cannot be used; the message names it, and where it came from."""


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. `read` makes a value of its text; ValueError says what it must be."""

    key: str
    default: str
    metavar: str
    help: str
    read: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one program; `prefix` begins its environment variables (``SAMPAN_AGENT_``)."""

    program: str
    description: str
    prefix: str
    options: Sequence[Option]

    def parser(self) -> argparse.ArgumentParser:
        """The command line: a flag for each setting, --config and --version."""
        example = self.options[0].key
        result = argparse.ArgumentParser(
            prog=self.program, formatter_class=argparse.RawDescriptionHelpFormatter, description=self.description,
            epilog=EPILOG.format(example=example, variable=self.variable(example)))
        result.add_argument("--config", metavar="FILE", default=None, help="configuration file")
        for option in self.options:
            shown = f" (default: {option.default})" if option.default else ""
            result.add_argument(f"--{option.key}", metavar=option.metavar, default=None, help=option.help + shown)
        result.add_argument("--version", action="store_true", help="print the version and exit")
        return result

    def variable(self, key: str) -> str:
        """The environment variable of a setting."""
        return self.prefix + key.upper().replace("-", "_")

    def resolve(self, flags: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
        """All values by attribute name (``node_ip``), from parsed flags, environment and file; ConfigError."""
        known = {self.variable(option.key) for option in self.options} | {self.prefix + "CONFIG"}
        unknown = sorted(name for name in environ if name.startswith(self.prefix) and name not in known)
        if unknown:
            raise ConfigError(f"{unknown[0]}: there is no such setting")
        file = flags.get("config") or environ.get(self.prefix + "CONFIG") or ""
        written = self._read_file(Path(file)) if file else {}
        return {option.key.replace("-", "_"): self._value(option, flags, environ, written, file)
                for option in self.options}

    def _read_file(self, path: Path) -> dict[str, Any]:
        try:
            loaded = yaml.safe_load(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"config: {path} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"config: {path} is no YAML: {error}") from error
        if loaded is None:
            return {}
        if not isinstance(loaded, dict):
            raise ConfigError(f"config: {path} must hold keys and values")
        known = sorted(option.key for option in self.options)
        unknown = [str(key) for key in loaded if key not in known]
        if unknown:
            raise ConfigError(f"{unknown[0]}: there is no such setting (in {path}); known are {', '.join(known)}")
        return loaded

    def _value(self, option: Option, flags: Mapping[str, Any], environ: Mapping[str, str],
               written: Mapping[str, Any], file: str) -> Any:
        name, variable = option.key.replace("-", "_"), self.variable(option.key)
        if flags.get(name) is not None:
            text, source = flags[name], f"--{option.key}"
        elif variable in environ:
            text, source = environ[variable], variable
        elif written.get(option.key) is not None:
            text, source = written[option.key], file
        else:
            text, source = option.default, "default"
        if isinstance(text, list):
            text = ",".join(str(item) for item in text)
        if isinstance(text, bool):  # so YAML reads on and off
            text = "on" if text else "off"
        try:
            return option.read(str(text))
        except ValueError as error:
            raise ConfigError(f"{option.key}: {error}, not {str(text)!r} (from {source})") from error


def absolute_path(text: str) -> Path:
    """A setting that is an absolute path."""
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    return path


def optional_path(text: str) -> Path | None:
    """A setting that is an absolute path, or not given."""
    return absolute_path(text) if text else None


def log_level(text: str) -> str:
    """A setting that is one of LEVELS."""
    if text.lower() not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return text.lower()
