"""A site of the NVFlare job, in its client API, after the hello-pt example."""

import nvflare.client as flare  # type: ignore[import-not-found]
import task


def main() -> None:
    """A round for each model received."""
    flare.init()
    spec = task.read_spec()
    site = flare.get_site_name()
    network = task.build(spec)
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        network.load_state_dict(received.params)
        steps = task.train(network, spec, site)
        params = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
        flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": steps}))


if __name__ == "__main__":
    main()
