"""The work as an NVFlare 2.9 job: its FedAvg recipe in its simulator, with `processes` sites at once.

A simulator with fewer threads than sites starts a new process for each site's task (and ends it after): that is how NVFlare
runs 64 sites on two cores. With as many threads as sites every site keeps a process, each with torch of its own.
"""

from pathlib import Path

import task
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe  # type: ignore[import-not-found]
from nvflare.recipe import SimEnv  # type: ignore[import-not-found]

if __name__ == "__main__":
    spec = task.read_spec()
    args = {"channels": spec["channels"], "strides": spec["strides"], "classes": len(spec["values"])}
    recipe = FedAvgRecipe(
        name="peers",
        model={"class_path": "task.Net", "args": args},
        min_clients=len(spec["folders"]),
        num_rounds=spec["rounds"],
        train_script=str(Path(__file__).with_name("nvflare_client.py")),
    )
    threads = min(spec["processes"], len(spec["folders"]))
    recipe.execute(SimEnv(clients=list(spec["folders"]), num_threads=threads, workspace_root=spec["scratch"]))
