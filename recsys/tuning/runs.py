"""Runs: a folder for each tuning, so that the same command goes on where it was stopped."""

import io
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

import orjson
from optuna.storages import JournalStorage

from recsys import bundle
from recsys.config import Config, config_from_dict
from recsys.logs import Log
from recsys.tuning.settings import text_of, write
from recsys.tuning.trials import open_journal
from recsys.tuning.tune import Aim, Tuned, digest

FORMAT = 2  # of the trials: what marks mean, and how settings are searched
SLICE = 100_000  # rows of a log hashed at a time

# What a run wrote: after all its stages, and when it was interrupted.
WHOLE, PARTIAL = "whole.toml", "partial.toml"
START = "start.json"  # the configuration that a run began with


@dataclass(frozen=True)
class Run:
    """A folder for one log, aim and start. start: the configuration that trials begin with."""

    folder: Path
    start: Config

    def storage(self) -> JournalStorage:
        """Where the trials are."""
        return open_journal(self.folder / "trials.journal")

    def write(self, tuned: Tuned, out: Path) -> bool:
        """Write what was found, if it is worth it; whether it was.

        An interrupted run writes only what is better than its start, and nothing over the findings
        of a whole one.
        """
        if tuned.partial and ((self.folder / WHOLE).exists() or not tuned.better):
            return False
        text = text_of(tuned)
        out.parent.mkdir(parents=True, exist_ok=True)
        write(text, out)
        write(text, self.folder / (PARTIAL if tuned.partial else WHOLE))
        return True


def open_run(folder: Path, log: Log, aim: Aim, config: Config, file: Path | None) -> Run:
    """The run of this log and aim that starts from a configuration.

    folder: of all runs. file: where ``config`` was read from; if a run wrote it, that run goes on
    from its own start.
    """
    of_log = log_digest(log)
    if file is not None:
        text = file.read_bytes()
        for written in sorted(folder.glob("*/*.toml")):
            if written.read_bytes() == text:
                start = config_from_dict(orjson.loads((written.parent / START).read_bytes()))
                if written.parent.name == _name(of_log, aim, start):
                    return Run(written.parent, start)
    run = Run(folder / _name(of_log, aim, config), config)
    run.folder.mkdir(parents=True, exist_ok=True)
    write(orjson.dumps(config.to_dict()).decode(), run.folder / START)
    return run


def log_digest(log: Log) -> str:
    """A short name for the events of a log and their order."""
    digester = blake2b(digest_size=12)
    for part in log.frame.iter_slices(SLICE):
        rows = io.BytesIO()
        part.rechunk().write_ipc(rows)
        digester.update(rows.getbuffer())
    return digester.hexdigest()


def _name(of_log: str, aim: Aim, start: Config) -> str:
    return digest(of_log, asdict(aim), start.to_dict(), bundle.FORMAT, FORMAT)
