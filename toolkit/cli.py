"""The ``toolkit`` command: one verb for each entry point."""

import sys
from collections.abc import Callable, Mapping, Sequence


def _train(argv: Sequence[str]) -> int:
    from toolkit.train import main

    return main(argv)


def _compare(argv: Sequence[str]) -> int:
    from toolkit.comparison import main

    return main(argv)


def _find(argv: Sequence[str]) -> int:
    from toolkit.finding import main

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
    from toolkit.sweep import demo

    return demo(argv)


def _predict(argv: Sequence[str]) -> int:
    from toolkit.prediction import main

    return main(argv)


def _export(argv: Sequence[str]) -> int:
    from toolkit.export import main

    return main(argv)


def _list(argv: Sequence[str]) -> int:
    from toolkit.listing import main

    return main(argv)


def _doctor(argv: Sequence[str]) -> int:
    from toolkit.doctor import main

    return main(argv)


def _launch_config(argv: Sequence[str]) -> int:
    from toolkit.errors import ConfigError
    from toolkit.launch_files import files, path_of
    from toolkit.process import run_command

    usage = f"usage: toolkit launch-config NAME, one of {', '.join(files())}"
    if {"-h", "--help"} & {*argv}:
        print(
            f"{usage}\n\nPrints the path of a file for accelerate launch --config_file, or of a "
            "script for SLURM's sbatch."
        )
        raise SystemExit(0)

    def show() -> int:
        if len(argv) != 1:
            raise ConfigError(usage)
        print(path_of(argv[0]))
        return 0

    return run_command(show)


VERBS: Mapping[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "train": (_train, "train one run"),
    "compare": (_compare, "train one target under several schedules, and judge them"),
    "find": (_find, "find a learning rate, and train nothing"),
    "sweep": (_sweep, "run a study, or go on with it"),
    "report": (_report, "write the report of a study"),
    "replay": (_replay, "judge recorded losses once more, under any schedule"),
    "explain": (_explain, "say why a run's schedule did what it did at an update"),
    "predict": (_predict, "predict rows of your own with a finished run"),
    "export": (_export, "write the trained model of a finished run for other programs"),
    "launch-config": (_launch_config, "print the path of a launch file, or of a script for SLURM"),
    "list": (_list, "list tasks, schedules and studies"),
    "doctor": (_doctor, "say what this machine has and what is missing"),
    "demo": (_demo, "run the demo study and write its report"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``toolkit VERB ...`` and return its exit code."""
    from toolkit.process import run_command

    given = sys.argv[1:] if argv is None else argv
    return run_command(lambda: _command(given))


def _command(argv: Sequence[str]) -> int:
    verb = argv[0] if argv else "--help"
    if verb in VERBS:
        return VERBS[verb][0](argv[1:])
    if verb == "--version":
        import toolkit

        print(f"toolkit {toolkit.__version__}")
        return 0
    if verb in ("-h", "--help"):
        usage = "\n".join(f"  {name:<13} {what}" for name, (_, what) in VERBS.items())
        print(f"usage: toolkit VERB ...\n\n{usage}\n\ntoolkit VERB --help says more.")
        return 0
    from toolkit.errors import unknown

    raise unknown("verb", verb, VERBS)


if __name__ == "__main__":
    raise SystemExit(main())
