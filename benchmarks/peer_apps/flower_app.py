"""The work as a Flower 1.41 app, after its MONAI example: model and data set are built in each call.

Run by `flwr.simulation.run_simulation`, in one process with the server: the leanest way that 1.41 has (it calls it deprecated
in favour of `flwr run`, which starts a SuperLink and more processes on top of the very same engine).
"""

import logging

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

client, server = ClientApp(), ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """A site's round."""
    import task

    spec = task.read_spec()
    network = task.build(spec)
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    site = f"site-{int(context.node_config['partition-id']) + 1}"
    steps = task.train(network, spec, site)
    metrics = MetricRecord({"num-examples": steps * spec["batch"]})
    return Message(RecordDict({"arrays": ArrayRecord(network.state_dict()), "metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Every site in every round; nothing is evaluated."""
    import task

    spec = task.read_spec()
    count = len(spec["folders"])
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=count, min_available_nodes=count)
    strategy.start(grid=grid, initial_arrays=ArrayRecord(task.build(spec).state_dict()), num_rounds=spec["rounds"])


if __name__ == "__main__":
    import task

    told = task.read_spec()
    room = {"init_args": {"num_cpus": told["processes"], "log_to_driver": False, "logging_level": logging.ERROR}}
    room |= {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, client, num_supernodes=len(told["folders"]), backend_config=room)
