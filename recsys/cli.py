"""The command line: parse, call one function of the library, print what came of it."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from threadpoolctl import threadpool_limits

from recsys.config import ORDER_IGNORED, Config, load_config
from recsys.events import InputError
from recsys.interrupts import held_back
from recsys.itemfiles import ITEMS, load_items
from recsys.logfiles import find_files
from recsys.logs import Log, LogError, load_log

OK, FAILED, WRONG_INPUT = 0, 1, 2

DEFAULT_MINUTES = 30.0  # of tuning: enough for a log of a million events on two cores

# People read stderr; with --json the last line of stdout is one JSON object and nothing else.
console = Console(stderr=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 wrong usage or input."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(words, argparse.Namespace(words=words))
    try:
        # Requests are small: threads inside BLAS and FAISS cost them more than they bring, and in
        # training the models' own threads would fight with them for the same cores.
        with threadpool_limits(1), held_back():
            return int(arguments.run(arguments))
    except KeyboardInterrupt:
        console.print("[yellow]interrupted; nothing was published or changed[/]")
        return FAILED
    except InputError as error:
        console.print("[red]error:[/]", escape(str(error)), highlight=False)
        return WRONG_INPUT
    except (OSError, RuntimeError, FloatingPointError) as error:
        console.print("[red]failed:[/]", escape(str(error)), highlight=False)
        return FAILED


def train(arguments: argparse.Namespace) -> int:
    """`recsys train`: log -> bundle -> published."""
    from recsys.evaluation.split import EvaluationError
    from recsys.evaluation.tables import verdict_table
    from recsys.gate import held_out, judge_by
    from recsys.refit import of_refit, refit, rehearse
    from recsys.registry import Registry, RegistryError
    from recsys.training import Stages
    from recsys.training import train as train_bundle

    if arguments.window and not arguments.gate:
        raise EvaluationError("--window: only --gate holds one out; give both, or neither")
    seconds: dict[str, float] = {}
    start = perf_counter()
    config = _config(arguments)
    rejects = arguments.rejects or arguments.data_dir / "rejects.jsonl"
    log = _told_of_items(_load(arguments.log, arguments, config, rejects), arguments)
    cut = held_out(log, arguments.window) if arguments.gate else None
    seconds["load"] = round(perf_counter() - start, 3)
    registry, verdict = Registry(arguments.data_dir / "bundles"), None
    with progress_bars() as progress:
        told: dict[str, Any] = {"config": config, "progress": progress, "seconds": seconds}
        if arguments.refit:
            judged = rehearse(registry, cut, **told) if cut else None
            bundle = refit(registry.load(), log, **told)
        else:
            judged = bundle = train_bundle(cut.train if cut else log, **told)
        if cut and judged:
            with Stages(progress, seconds).of("gate", len(cut.test.frame)) as tick:
                verdict = judge_by(cut, judged, registry, seed=config.training.seed, tick=tick)
            verdict = of_refit(verdict, bundle) if arguments.refit else verdict
        published = perf_counter()
        found = verdict.to_dict() if verdict else None
        try:
            registry.publish(bundle, found)
        except RegistryError as error:
            raise RuntimeError(str(error)) from error
        seconds["publish"] = round(perf_counter() - published, 3)
    seconds["total"] = round(perf_counter() - start, 3)
    facts = bundle.facts
    summary = {
        "bundle": bundle.version,
        "events": {"read": log.read, "kept": log.kept, "rejected": log.rejected},
        "users": facts.counts["users"],
        "items": facts.counts["items"],
        "sessions": facts.counts["sessions"],
        "clock": facts.clock,
        "exclude_bought": facts.exclude_bought,
        "ranker": facts.ranker,
        "refits": len(facts.line),
        "seconds": seconds,
        "metrics": facts.metrics,
        "notes": [
            *log.notes,
            *([ORDER_IGNORED] if bundle.config.session.order == "ignored" else ()),
            *(verdict.notes if verdict else ()),
        ],
        "gate": found,
    }
    serves = (verdict is None or verdict.passed) and not registry.withdrawn(bundle.version)
    _show_summary(summary)
    if verdict:
        console.print(verdict_table(verdict))
    if serves:
        console.print(f"next: recsys serve --data-dir {arguments.data_dir}", highlight=False)
    else:
        console.print("[yellow]kept aside: recsys bundles list, show or activate it[/]")
    _print_json(arguments, summary)
    return OK if serves else FAILED


def evaluate(arguments: argparse.Namespace) -> int:
    """`recsys evaluate`: temporal split -> train on the past -> replay the rest."""
    from recsys.evaluation.ablation import ablation
    from recsys.evaluation.evaluate import check_moments, check_question
    from recsys.evaluation.evaluate import evaluate as evaluate_bundle
    from recsys.evaluation.freshness import CURVE, check_clock
    from recsys.evaluation.origin import Origin
    from recsys.evaluation.page import check_page, write
    from recsys.evaluation.tables import ablation_table, report_table
    from recsys.training import train as train_bundle

    config = _config(arguments)
    asked = {
        "protocol": arguments.protocol,
        "min_prefix": arguments.min_prefix,
        "at": tuple(arguments.at),
        "placement": arguments.placement,
        "systems": _names("all" if arguments.report else arguments.systems),
        "freshness": _names(arguments.freshness),
    }
    check_question(config, **asked)
    if arguments.report:
        check_page(arguments.report)
    train_log, test_log = _train_and_test(arguments, config)
    train_log = _told_of_items(train_log, arguments)
    clocks = (train_log.clock, test_log.clock)
    if arguments.report and not asked["freshness"] and "rows" not in clocks:
        asked["freshness"] = CURVE
    if asked["freshness"]:
        check_clock(clocks)
    check_moments(test_log, config, arguments.protocol, arguments.min_prefix)
    with progress_bars() as progress:
        bundle = train_bundle(train_log, config, progress)
        report = evaluate_bundle(
            bundle,
            test_log,
            **asked,
            slices=arguments.slices or arguments.report is not None,
            progress=progress,
            seed=config.training.seed,
            before=train_log,
        )
        console.print(report_table(report))
        without = None
        if (arguments.ablation or arguments.report) and not report.partial:
            try:
                without = ablation(
                    bundle,
                    train_log,
                    test_log,
                    protocol=arguments.protocol,
                    min_prefix=arguments.min_prefix,
                    at=max(arguments.at),
                    placement=arguments.placement,
                    seed=config.training.seed,
                    progress=progress,
                )
                if not len(bundle.forest.leaves):
                    report.notes.append("no ablation: without a learned ranker there is none")
            except KeyboardInterrupt:
                report.notes.append("the ablation was interrupted, so there is none")
    if without:
        console.print(ablation_table(without))
    for warning in report.warnings:
        console.print(f"[yellow]{warning}[/]", highlight=False)
    for note in [*train_log.notes, *report.notes]:
        console.print(f"[dim]{note}[/]", highlight=False)
    found = {**report.to_dict(), "ablation": without and without.to_dict()}
    if arguments.report:
        found["reproduce"] = dataclasses.asdict(Origin.of(arguments.words, _files(arguments)))
    _print_json(arguments, found)
    if arguments.report:
        write(arguments.report, found)
        console.print(f"report: {arguments.report}", highlight=False)
    return OK


def tune(arguments: argparse.Namespace) -> int:
    """`recsys tune`: log -> settings searched on its tail -> recsys.toml."""
    from recsys.tuning.runs import open_run
    from recsys.tuning.settings import summary_of
    from recsys.tuning.tune import Aim, check_budget
    from recsys.tuning.tune import tune as tune_config

    check_budget(arguments.minutes, arguments.trials)
    config, file = _config(arguments), _config_file(arguments)
    aim = Aim(arguments.protocol, arguments.placement, arguments.min_prefix, arguments.holdout)
    log = _told_of_items(_load(arguments.log, arguments, config, arguments.rejects), arguments)
    run = open_run(arguments.data_dir / "tuning", log, aim, config, file)
    if arguments.minutes is None and arguments.trials is None:
        arguments.minutes = DEFAULT_MINUTES
    with progress_bars() as progress:
        tuned = tune_config(
            log,
            run.start,
            run.storage(),
            aim=aim,
            minutes=arguments.minutes,
            trials=arguments.trials,
            min_gain=arguments.min_gain,
            progress=progress,
        )
    written = run.write(tuned, arguments.out)
    console.print(summary_of(tuned))
    for note in [*log.notes, *tuned.notes]:
        console.print(f"[dim]{note}[/]", highlight=False)
    where = f"{arguments.out} written" if written else f"{arguments.out} left as it was"
    console.print(f"{where}; next: recsys train {' '.join(arguments.log)}", highlight=False)
    _print_json(arguments, {"config": str(arguments.out), "written": written, **tuned.to_dict()})
    return OK


def recommend(arguments: argparse.Namespace) -> int:
    """`recsys recommend`: lists for all users, or those of a file -> one Parquet file."""
    from recsys.batch_command import run

    summary = run(arguments, _item_files(arguments), progress_bars(), console)
    _print_json(arguments, summary)
    return OK


def bundles(arguments: argparse.Namespace) -> int:
    """`recsys bundles`: list, show, compare, activate, roll back and prune what was trained."""
    from recsys.bundle_commands import run

    _print_json(arguments, run(arguments, console))
    return OK


def stream(arguments: argparse.Namespace) -> int:
    """`recsys stream`: live log -> hourly files that `recsys train` reads."""
    from api.stream import stream as stream_log  # the API sits above this package
    from api.upkeep import Schedule

    return stream_log(
        arguments.data_dir,
        redis_url=arguments.redis_url or os.environ.get("RECSYS_REDIS_URL"),
        every=arguments.every,
        once=arguments.once,
        as_json=arguments.json,
        schedule=Schedule.of(**_schedule(arguments)),
    )


def quarantine(arguments: argparse.Namespace) -> int:
    """`recsys quarantine`: list sessions of suspicious traffic, let them count again."""
    from api.quarantine import quarantine as act  # the API sits above this package

    return act(
        arguments.data_dir,
        arguments.action,
        arguments.sessions,
        arguments.redis_url or os.environ.get("RECSYS_REDIS_URL"),
        as_json=arguments.json,
    )


def serve(arguments: argparse.Namespace) -> int:
    """`recsys serve`: the API, with an embedded Redis-compatible server unless given one."""
    from api.serve import serve as serve_api  # the API sits above this package
    from api.upkeep import Schedule

    return serve_api(
        arguments.data_dir,
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        redis_url=arguments.redis_url or os.environ.get("RECSYS_REDIS_URL"),
        as_json=arguments.json,
        schedule=Schedule.of(**_schedule(arguments)),
        fresh=True,
    )


def benchmark(arguments: argparse.Namespace) -> int:
    """`recsys benchmark`: how fast the active bundle is, how far from the limit, how it grows."""
    from api import benchmark as serving  # the API sits above this package
    from api import scale

    if arguments.what == "scale":
        found = scale.benchmark_scale(
            arguments.data_dir,
            arguments.items,
            console,
            arguments.plot,
            dimensions=arguments.dimensions,
            seconds=arguments.seconds,
        )
        tables = scale.tables(found)
    else:
        found = serving.benchmark_serving(
            arguments.data_dir,
            arguments.rates,
            arguments.seconds,
            console,
            arguments.plot,
            overload=arguments.overload,
        )
        tables = serving.tables(found)
    for table in tables:
        console.print(table)
    _print_json(arguments, found)
    return OK


def demo(arguments: argparse.Namespace) -> int:
    """`recsys demo`: real data, a page to try it on, and with --check its proof."""
    from api.demo import run_demo  # the API sits above this package

    return run_demo(
        arguments.data_dir,
        port=arguments.port,
        check=arguments.check,
        as_json=arguments.json or arguments.check,
        open_browser=not arguments.no_browser,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recsys",
        description="Recommendations that follow what the visitor is doing right now.",
        epilog="Start with: recsys demo",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    sub = _command(commands, "train", train, "recsys train clicks.csv --data-dir data")
    sub.add_argument("log", nargs="+", help="log files, folders or globs")
    sub.add_argument(
        "--gate",
        action="store_true",
        help="train without the newest part of the log, judge by it, and keep aside what is worse "
        "than the active bundle or no better than popularity and session-kNN; status 1 if so",
    )
    sub.add_argument(
        "--refit",
        action="store_true",
        help="bring the active bundle up to the log, which holds what it was trained on and more, "
        "for a small part of a training; with --gate, judged by the same without the newest part",
    )
    sub.add_argument(
        "--window",
        help="what --gate judges by, at the log's end: a period (1d) or a share (0.1); "
        "default: 5%%, at least 2,000 events and at most 20,000",
    )
    _add_log_options(sub)
    _add_data_dir(sub)

    sub = _command(commands, "evaluate", evaluate, "recsys evaluate clicks.csv --holdout 1d")
    sub.add_argument("log", nargs="*", help="one log, split by time")
    sub.add_argument("--train", nargs="+", metavar="A", help="a log to train on, with --test")
    sub.add_argument("--test", nargs="+", metavar="B", help="a later log to replay")
    sub.add_argument(
        "--holdout",
        help="what is replayed at the log's end: a period (36h, 1d, 2w) or a share (0.1); "
        "default: the last tenth of the events",
    )
    sub.add_argument("--at", type=int, nargs="+", default=[20], metavar="K", help="list lengths")
    _add_aim(sub)
    sub.add_argument(
        "--systems", default="", help="also ask blend, sources by name (a,b), or all of them"
    )
    sub.add_argument(
        "--freshness",
        default="",
        metavar="0s,1m,…",
        help="also ask with events hidden that are younger than each delay",
    )
    sub.add_argument(
        "--ablation", action="store_true", help="also without each source and group of features"
    )
    sub.add_argument("--slices", action="store_true", help="also by session length, visitor, item")
    sub.add_argument(
        "--report",
        type=Path,
        metavar="OUT.html",
        help="write one self-contained page: plots, all systems, freshness, slices, ablation",
    )
    _add_log_options(sub)

    sub = _command(commands, "tune", tune, "recsys tune clicks.csv --minutes 30")
    sub.add_argument("log", nargs="+", help="log files, folders or globs")
    sub.add_argument(
        "--minutes", type=float, help=f"the whole may take (default: {DEFAULT_MINUTES:.0f})"
    )
    sub.add_argument("--trials", type=int, help="of each search, for runs that can be repeated")
    sub.add_argument("--out", type=Path, default=Path("recsys.toml"), help="default: recsys.toml")
    sub.add_argument("--holdout", default="10%", help="the log's end, to judge by: 1d, 2w, 10%%")
    sub.add_argument(
        "--min-gain", type=float, default=0.001, help="of a source, to be asked at all (0.001)"
    )
    _add_aim(sub)
    _add_log_options(sub)
    _add_data_dir(sub)

    example = "recsys recommend --users all --out recs.parquet"
    sub = _command(commands, "recommend", recommend, example)
    sub.add_argument(
        "--users",
        required=True,
        metavar="FILE|all",
        help="all that the bundle knows, or those of a file: a text with one id a line, or a .csv "
        "or .parquet with a column user_id; users not known get popular items",
    )
    sub.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="OUT.parquet",
        help="a row an item: user_id, rank, item_id, score, reason, tier; there once it is whole",
    )
    sub.add_argument("--n", type=int, default=20, help="items of a list (20)")
    sub.add_argument("--placement", default="default", help="a placement of the configuration")
    sub.add_argument(
        "--source",
        default="",
        help="rank by one source alone, in the place of what the placement ranks by; embedding is "
        "the fast one",
    )
    sub.add_argument("--bundle", help="a version (default: the active one)")
    sub.add_argument(
        "--threads", type=int, default=0, help="how many work at a time (default: all cores)"
    )
    _add_items(sub)
    _add_data_dir(sub)

    sub = _command(commands, "serve", serve, "recsys serve --data-dir data --port 8000")
    _add_data_dir(sub)
    sub.add_argument("--host", default="127.0.0.1")
    sub.add_argument("--port", type=int, default=8000)
    sub.add_argument("--workers", type=int, default=2, help="processes sharing one bundle")
    sub.add_argument(
        "--redis-url", help="a Redis to use (or RECSYS_REDIS_URL); default: an embedded one"
    )
    _add_schedule(sub)

    sub = _command(commands, "bundles", bundles, "recsys bundles list --data-dir data")
    actions = ("list", "show", "diff", "activate", "rollback", "prune")
    sub.add_argument("action", choices=actions, help="a server follows within a second")
    sub.add_argument("versions", nargs="*", metavar="BUNDLE", help="show and activate 1, diff 2")
    sub.add_argument("--keep", type=int, default=5, help="how many of the newest prune leaves (5)")
    _add_data_dir(sub)

    sub = _command(commands, "stream", stream, "recsys stream --once && recsys train data/events")
    _add_data_dir(sub)
    sub.add_argument(
        "--redis-url",
        help="the Redis that the servers use (or RECSYS_REDIS_URL); default: the embedded one of "
        "the data directory, which a running `recsys serve` reads by itself",
    )
    sub.add_argument(
        "--every", type=float, default=10.0, help="seconds until what came is in a file (10)"
    )
    sub.add_argument("--once", action="store_true", help="write what there is and end")
    _add_schedule(sub)

    sub = _command(commands, "quarantine", quarantine, "recsys quarantine release SESSION")
    sub.add_argument("action", choices=("list", "release"), help="also while a server runs")
    sub.add_argument("sessions", nargs="*", metavar="SESSION", help="to release; they count again")
    _add_data_dir(sub)
    sub.add_argument(
        "--redis-url",
        help="the Redis that the servers use (or RECSYS_REDIS_URL); default: the embedded one of "
        "the data directory",
    )

    sub = _command(commands, "benchmark", benchmark, "recsys benchmark serving --data-dir data")
    sub.add_argument(
        "what",
        choices=["serving", "scale"],
        help="the real server under a realistic load; or what grows with the number of items",
    )
    _add_data_dir(sub)
    sub.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[125.0, 250.0, 500.0, 1000.0],
        metavar="N",
        help="serving: visits a second, each an event and a list (125 250 500 1000)",
    )
    sub.add_argument("--seconds", type=float, default=10.0, help="of each measurement (10)")
    sub.add_argument(
        "--overload",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="serving: also three times as many visits as there can be, for so long (0: not)",
    )
    sub.add_argument(
        "--items",
        type=int,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        metavar="N",
        help="scale: the shop grown to so many (10000 100000 1000000)",
    )
    sub.add_argument(
        "--dimensions",
        type=int,
        default=128,
        help="scale: of the session embedding, 0 for the bundle's own (128)",
    )
    sub.add_argument("--plot", type=Path, help="of latency or cost: .png or .svg")

    sub = _command(commands, "demo", demo, "recsys demo --check")
    _add_data_dir(sub, Path("data/demo"))
    sub.add_argument("--port", type=int, default=8000)
    sub.add_argument("--check", action="store_true", help="prove it end to end and exit")
    sub.add_argument("--no-browser", action="store_true", help="do not open a browser")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], example: str
) -> argparse.ArgumentParser:
    text = (run.__doc__ or "").split(": ", 1)[1]
    sub: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:], epilog=f"example: {example}"
    )
    sub.add_argument("--json", action="store_true", help="last line of stdout: one JSON object")
    sub.set_defaults(run=run)
    return sub


def _add_data_dir(sub: argparse.ArgumentParser, default: Path = Path("data")) -> None:
    sub.add_argument("--data-dir", type=Path, default=default, help="bundles and live data")


def _schedule(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `api.upkeep.Schedule.of` takes."""
    return {
        "refit": arguments.refit,
        "events": arguments.refit_events,
        "retrain": arguments.retrain,
        "drift": arguments.refit_drift,
    }


def _add_schedule(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--refit",
        metavar="PERIOD",
        help="refit the active bundle on the files so often (10m), if there is something new; what "
        "the gate refuses is kept aside",
    )
    sub.add_argument(
        "--refit-events", type=int, metavar="N", help="refit it after so many new events"
    )
    sub.add_argument(
        "--refit-drift",
        action="store_true",
        help="refit it when visitors' events are in its lists less often than before",
    )
    sub.add_argument(
        "--retrain", metavar="PERIOD", help="train a bundle anew, in full, so often (1d)"
    )


def _add_aim(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--protocol", choices=["next-item", "rest-of-session", "user"], default="next-item"
    )
    sub.add_argument("--min-prefix", type=int, default=1, help="first prefix length tested")
    sub.add_argument("--placement", default="default", help="a placement of the configuration")


def _add_items(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--items",
        nargs="+",
        metavar="FILE",
        help="what the shop says of its items: .ndjson, .csv or .parquet (default: items.ndjson of "
        "the data dir, where recsys stream has written it)",
    )


def _add_log_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--config", type=Path, help="recsys.toml")
    sub.add_argument(
        "--columns", default="", help="other column names: user_id=visitorid,item_id=itemid"
    )
    sub.add_argument("--default-type", help="event type where the log has none (default: view)")
    sub.add_argument(
        "--max-bad", type=float, default=0.01, help="share of bad rows at which to stop (0.01)"
    )
    _add_items(sub)
    sub.add_argument(
        "--rejects",
        type=Path,
        help="where bad rows go (default: train keeps them in the data dir, evaluate nowhere)",
    )


def _config(arguments: argparse.Namespace) -> Config:
    return load_config(_config_file(arguments))


def _config_file(arguments: argparse.Namespace) -> Path | None:
    """The file that is in force; None: the defaults are."""
    default = Path("recsys.toml")
    chosen: Path | None = arguments.config
    return chosen or (default if default.exists() else None)


def _files(arguments: argparse.Namespace) -> list[Path]:
    """The files that an evaluation reads."""
    settings = _config_file(arguments)
    logs = find_files([*arguments.log, *(arguments.train or ()), *(arguments.test or ())])
    return [*logs, *_item_files(arguments), *([settings] if settings else [])]


def _load(
    paths: Sequence[str], arguments: argparse.Namespace, config: Config, rejects: Path | None
) -> Log:
    log = load_log(
        paths,
        columns=columns_of(arguments.columns),
        config=config.events,
        default_type=arguments.default_type,
        max_bad=arguments.max_bad,
        rejects=rejects,
    )
    if log.rejected:
        where = log.rejects_path or "--rejects FILE keeps them"
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in log.rejected.items())
        console.print(f"[yellow]rows rejected: {reasons} ({where})[/]", highlight=False)
    return log


def _item_files(arguments: argparse.Namespace) -> list[Path]:
    """The files that say what items are: those given, else that of the data directory."""
    if arguments.items:
        return [Path(path) for path in arguments.items]
    folder = getattr(arguments, "data_dir", None)
    kept = folder / ITEMS if folder else None
    return [kept] if kept and kept.exists() else []


def _told_of_items(log: Log, arguments: argparse.Namespace) -> Log:
    """A log to train on, with what the shop says of its items."""
    return dataclasses.replace(log, items=load_items(_item_files(arguments)))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def columns_of(text: str) -> dict[str, str]:
    """What ``--columns`` says: standard name -> name in the log. Raises LogError."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair]
    broken = [name for name, equals, value in pairs if not (name and equals and value)]
    if broken:
        raise LogError(
            f"--columns: {broken[0]!r} is not NAME=COLUMN; example: user_id=visitorid,item_id=sku"
        )
    return {name.strip(): value.strip() for name, _, value in pairs}


def _train_and_test(arguments: argparse.Namespace, config: Config) -> tuple[Log, Log]:
    from recsys.evaluation.split import DEFAULT_TEST, EvaluationError, check_order, split

    if bool(arguments.train) != bool(arguments.test):
        raise EvaluationError("--train and --test go together: give both, or one log to split")
    if arguments.train:
        if arguments.log:
            raise EvaluationError("give either LOG or --train A --test B, not both")
        if arguments.holdout:
            raise EvaluationError("--holdout cuts one LOG; --train and --test are cut already")
        train_log = _load(arguments.train, arguments, config, arguments.rejects)
        test_log = _load(arguments.test, arguments, config, arguments.rejects)
        check_order(train_log, test_log)
        return train_log, test_log
    if not arguments.log:
        raise EvaluationError("give a log: recsys evaluate clicks.csv, or --train A --test B")
    log = _load(arguments.log, arguments, config, arguments.rejects)
    parts = split(log, arguments.holdout or DEFAULT_TEST)
    for note in parts.notes:
        console.print(f"[dim]{note}[/]", highlight=False)
    return parts.train, parts.test


def progress_bars() -> Progress:
    """Progress bars on standard error."""
    return Progress(
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _show_summary(summary: dict[str, Any]) -> None:
    table = Table(title=f"bundle {summary['bundle']}", show_header=False, title_justify="left")
    events = summary["events"]
    table.add_row("events read", f"{events['read']:,}")
    table.add_row("events kept", f"{events['kept']:,}")
    for reason, count in events["rejected"].items():
        table.add_row(f"rejected: {reason}", f"{count:,}")
    for name in ("users", "items", "sessions"):
        table.add_row(name, f"{summary[name]:,}")
    for name, value in summary["metrics"].items():
        table.add_row(name, f"{value:.4f}")
    table.add_row("bought items", "left out" if summary["exclude_bought"] else "may come again")
    table.add_row("ranking", summary["ranker"])
    table.add_row("seconds", ", ".join(f"{k} {v:.1f}" for k, v in summary["seconds"].items()))
    console.print(table)
    for note in summary["notes"]:
        console.print(f"[dim]{note}[/]", highlight=False)


def _print_json(arguments: argparse.Namespace, summary: dict[str, Any]) -> None:
    if arguments.json:
        print(orjson.dumps(summary, option=orjson.OPT_SERIALIZE_NUMPY).decode(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
