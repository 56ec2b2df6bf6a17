"""Stand-ins for what a container lacks: sudo, users, systemd. What a unit's ExecStart says is really started.

Called by the name of a link to this file: sudo, useradd, chown, install, systemctl, nft, nginx. The environment says where
`/etc/systemd` is (PRETEND_ETC), and where process ids and logs go (PRETEND_RUN).
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

ETC, RUN = Path(os.environ["PRETEND_ETC"]), Path(os.environ["PRETEND_RUN"])


def sudo(*words: str) -> int:
    if words[0] == "-u":
        words = words[2:]
    return subprocess.run(words).returncode


def nothing(*words: str) -> int:
    return 0


def install(*words: str) -> int:
    """Without the group, which only useradd would make."""
    kept = [word for i, word in enumerate(words) if word != "-g" and words[i - 1] != "-g"]
    return subprocess.run(["/usr/bin/install", *kept]).returncode


def systemctl(*words: str) -> int:
    task, *names = [word for word in words if word != "--now"]
    if names == ["nginx"]:
        pid = RUN / "nginx.pid"
        runs = pid.exists() and pid.read_text().strip()  # `nginx -t` leaves an empty one
        return subprocess.run(["nginx", "-s", "reload" if runs else "start"]).returncode
    if task == "restart":
        stop(names[0])
    start(names[0])
    return 0


def start(name: str) -> None:
    """Start what the unit says, with the environment that it says."""
    text = (ETC / "systemd" / "system" / f"{name}.service").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    facts = dict(re.findall(r"^(\w+)=(.*)$", text.replace("\\\n", " "), re.MULTILINE))
    environment = dict(os.environ) | dict(word.split("=", 1) for word in shlex.split(facts["Environment"]))
    if file := facts.get("EnvironmentFile"):
        environment |= dict(line.split("=", 1) for line in Path(file).read_text().split())
    command = [re.sub(r"\$\{(\w+)\}", lambda found: environment[found[1]], word) for word in shlex.split(facts["ExecStart"])]
    with (RUN / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=facts["WorkingDirectory"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    (RUN / f"{name}.pid").write_text(str(process.pid))


def stop(name: str) -> None:
    pid = int((RUN / f"{name}.pid").read_text())
    os.killpg(pid, signal.SIGTERM)
    for _ in range(300):
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(pid, signal.SIGKILL)


def nginx(*words: str) -> int:
    """The real one, with the site's own configuration; `-s start` starts it."""
    main = RUN / "nginx.conf"
    main.write_text(
        f"pid {RUN}/nginx.pid; error_log {RUN}/nginx.log; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {RUN}/body; proxy_temp_path {RUN}/proxy;\n"
        f"fastcgi_temp_path {RUN}/f; uwsgi_temp_path {RUN}/u; scgi_temp_path {RUN}/s; include {ETC}/nginx/conf.d/*.conf; }}\n"
    )
    words = () if words == ("-s", "start") else words
    return subprocess.run([os.environ["PRETEND_NGINX"], "-e", f"{RUN}/nginx.log", "-c", str(main), *words]).returncode


WORDS = {"sudo": sudo, "install": install, "systemctl": systemctl, "nginx": nginx}

if __name__ == "__main__":
    sys.exit(WORDS.get(Path(sys.argv[0]).name, nothing)(*sys.argv[1:]))
