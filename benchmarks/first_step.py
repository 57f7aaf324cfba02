"""The training command up to the end of its first step, with the moments at which its stages began.

Started by `benchmarks.startup`, under torchrun or not, with the options of distmnist.train. Rank 0 writes the moments
(seconds of time.monotonic, which processes of one machine share) to the file named in FIRST_STEP as JSON.
"""

import json
import os
import sys
import time
from typing import Any

FILE = "FIRST_STEP"


def main() -> None:
    moments = {"imports": time.monotonic()}
    from distmnist import train
    from distmnist.distributed import world
    from distmnist.runs import job
    from distmnist.training import requests

    def stamp(owner: Any, name: str, stage: str) -> None:
        original = getattr(owner, name)

        def stamped(*args: Any, **kwargs: Any) -> Any:
            moments.setdefault(stage, time.monotonic())
            return original(*args, **kwargs)

        setattr(owner, name, stamped)

    def wish(_: requests.Signals) -> requests.Wish:
        """Asked before every step: the second time, the first step is done."""
        if "first step" in moments:
            moments["done"] = time.monotonic()
            if os.environ.get("RANK", "0") == "0":
                with open(os.environ[FILE], "w") as file:
                    json.dump(moments, file)
            os._exit(0)
        moments["first step"] = time.monotonic()
        return requests.Wish.NOTHING

    stamp(job, "run", "meeting the others")
    stamp(job, "find_digits", "digits")
    stamp(world.World, "connect", "process group")
    stamp(job, "fit", "building the net")
    requests.Signals.__call__ = wish
    sys.exit(train.main())


if __name__ == "__main__":
    main()
