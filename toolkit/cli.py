"""The ``toolkit`` command: one verb for each entry point."""

import sys
from collections.abc import Callable, Mapping, Sequence


def _train(argv: Sequence[str]) -> int:
    from toolkit.train import main

    return main(argv)


def _sweep(argv: Sequence[str]) -> int:
    from toolkit.sweep import main

    return main(argv)


def _report(argv: Sequence[str]) -> int:
    from toolkit.report.__main__ import main

    return main(argv)


def _replay(argv: Sequence[str]) -> int:
    from toolkit.replay import main

    return main(argv)


def _explain(argv: Sequence[str]) -> int:
    from toolkit.explain import main

    return main(argv)


def _demo(argv: Sequence[str]) -> int:
    return _sweep(["demo", *argv]) or _report(["runs/demo"])


def _export(argv: Sequence[str]) -> int:
    from toolkit.export import main

    return main(argv)


def _list(argv: Sequence[str]) -> int:
    from toolkit import task
    from toolkit.schedules import SCHEDULES
    from toolkit.studies import shipped

    for title, items in (
        ("targets", task.targets()),
        ("schedules", (f"schedule:{name}" for name in SCHEDULES)),
        ("studies", shipped.STUDIES),
    ):
        print(title, *(f"  {item}" for item in items), sep="\n")
    return 0


def _doctor(argv: Sequence[str]) -> int:
    from toolkit.doctor import main

    return main()


def _launch_config(argv: Sequence[str]) -> int:
    from toolkit.errors import ConfigError
    from toolkit.launch_files import folder, path_of
    from toolkit.process import run_command

    names = sorted(file.stem for file in folder().glob("*.yaml"))

    def show() -> int:
        if len(argv) != 1:
            raise ConfigError(f"usage: toolkit launch-config NAME, one of {', '.join(names)}")
        print(path_of(argv[0]))
        return 0

    return run_command(show)


VERBS: Mapping[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (_train, "train one run"),
    "sweep": (_sweep, "run a study, or go on with it"),
    "report": (_report, "write the report of a study"),
    "replay": (_replay, "judge recorded losses once more, under any schedule"),
    "explain": (_explain, "say why a run's schedule did what it did at an update"),
    "export": (_export, "write the trained model of a finished run for other programs"),
    "list": (_list, "list targets, schedules and studies"),
    "launch-config": (_launch_config, "print the path of a launch file of accelerate launch"),
    "doctor": (_doctor, "say what this machine has and what is missing"),
    "demo": (_demo, "run the demo study and write its report"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``toolkit VERB ...`` and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    verb = argv[0] if argv else "--help"
    if verb in VERBS:
        return VERBS[verb][0](argv[1:])
    usage = "\n".join(f"  {name:<13} {what}" for name, (_, what) in VERBS.items())
    if verb in ("-h", "--help"):
        print(f"usage: toolkit VERB ...\n\n{usage}\n\ntoolkit VERB --help says more.")
        return 0
    from toolkit.errors import unknown
    from toolkit.process import WRONG, print_error

    return print_error(unknown("verb", verb, VERBS), WRONG)


if __name__ == "__main__":
    raise SystemExit(main())
