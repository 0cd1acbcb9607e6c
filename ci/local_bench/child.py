"""One process of the benchmark: `python -m local_bench.child JOB`, where JOB is a Job's JSON.

Points are printed as they are measured; the outcome is written to the job's file.
"""

from __future__ import annotations

import os

# Before anything imports torch.
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}

import sys
from contextlib import redirect_stdout

from pydantic import BaseModel

from local_bench.records import NAMES, Job, Task
from promptbake.documents.typed import parse_json, read_json
from promptbake.errors import BakeError
from promptbake.files import write_atomic


def result_of(job: Job) -> BaseModel:
    """Run a job in this process. Heavy modules are imported by those that need them."""
    if job.contestant == "machine":
        from local_bench.machine import measure

        return measure()
    if job.contestant == "prepare":
        from local_bench.prepare import prepare

        return prepare(job)
    task = read_json(Task, job.task_file)
    if job.contestant == "ours":
        from local_bench import ours

        return ours.run(job, task)
    if job.contestant == "reference":
        from local_bench import reference

        return reference.run(job, task)
    if job.contestant not in NAMES:
        raise BakeError(f"contestant {job.contestant!r}: choose from: {', '.join(NAMES)}")
    from local_bench import trl_trainers

    run = trl_trainers.run_sft if job.contestant == "sft" else trl_trainers.run_sdft
    return run(job, task)


def main(argument: str) -> int:
    """Run the job; an error that the user can fix is one line."""
    try:
        job = parse_json(Job, argument, "JOB")
        with redirect_stdout(sys.stderr):  # points alone go to the standard output
            result = result_of(job)
        write_atomic(job.outcome_file, result.model_dump_json(indent=1))
    except BakeError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
