"""run_slurm.sh with stand-ins of sbatch, srun and scontrol: what each node runs, and when again."""

import os
import subprocess

import pytest

from util.config.load import ROOT

SBATCH = """#!/usr/bin/env bash
echo "sbatch $*" >> "$CALLS"
while [ "${1#--}" != "$1" ]; do shift; done     # flags of sbatch
cp "$1" "$SPOOL/slurm_script"; shift            # Slurm runs a copy of the script
SLURM_JOB_ID=7 SLURM_JOB_NODELIST='n[1-2]' SLURM_JOB_NUM_NODES=$NODES bash "$SPOOL/slurm_script" "$@"
"""
SRUN = """#!/usr/bin/env bash
shift                                           # --ntasks-per-node=1
status=0
for ((node = 0; node < NODES; node++)); do SLURM_NODEID=$node "$@" || status=$?; done
exit "$status"
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >> "$CALLS"
[ "$1" = requeue ] || printf 'n1\\nn2\\n'
"""
LAUNCHER = """echo "launcher $*" >> "$CALLS"; exit "${STATUS:-0}"
"""


@pytest.fixture
def cluster(tmp_path):
    """Return a function that submits, and the lines of what was called."""
    programs, project = tmp_path / "bin", tmp_path / "project"
    programs.mkdir()
    project.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (project / "run_slurm.sh").write_text((ROOT / "run_slurm.sh").read_text())
    (project / "run_pretrain.sh").write_text(LAUNCHER)
    calls = tmp_path / "calls"

    def submit(*words, nodes=2, gpus=0, status=0):
        calls.write_text("")
        environment = {
            **{name: value for name, value in os.environ.items() if "SLURM" not in name},
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "SPOOL": str(tmp_path),
            "NODES": str(nodes),
            "STATUS": str(status),
            "SLURM_GPUS_ON_NODE": str(gpus),
        }
        command = ["bash", str(project / "run_slurm.sh"), *map(str, words)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        return done, calls.read_text().splitlines()

    return submit


def test_every_node_runs_the_launcher_with_its_rank(cluster):
    done, calls = cluster(
        "--nodes=2", "--time=1:00:00", "--", "run_pretrain.sh", "--exp_name", "a b", gpus=4
    )
    assert done.returncode == 0, done.stderr
    assert "--requeue" in calls[0] and "--nodes=2 --time=1:00:00" in calls[0]
    launched = [line for line in calls if line.startswith("launcher")]
    assert launched == [
        f"launcher --gpus 0,1,2,3 --exp_name a b --nnodes 2 --node_rank {rank} --master_addr n1 "
        "--resume auto"
        for rank in (0, 1)
    ]
    assert not any("requeue" in line for line in calls[1:])


def test_one_node_without_gpus_needs_no_meeting(cluster):
    _, calls = cluster("--", "run_pretrain.sh", "--exp_name", "a", nodes=1)
    assert calls[-1] == "launcher --gpus cpu --exp_name a --resume auto"
    _, calls = cluster("--", "run_pretrain.sh", "--resume", "x.pth", nodes=1)
    assert calls[-1] == "launcher --gpus cpu --resume x.pth"


@pytest.mark.parametrize("status, again", [(75, True), (76, True), (2, False), (1, False)])
def test_a_stopped_job_goes_back_into_the_queue_and_a_failed_one_does_not(cluster, status, again):
    done, calls = cluster("--", "run_pretrain.sh", "--exp_name", "a", nodes=1, status=status)
    assert done.returncode == status
    assert (calls[-1] == "scontrol requeue 7") == again


def test_the_store_is_copied_to_the_node(cluster, tmp_path):
    store, scratch = tmp_path / "stores" / "real", tmp_path / "scratch"
    (store / "fs100").mkdir(parents=True)
    (store / "fs100" / "meta.json").write_text("{}")
    words = ("--stage", scratch, "--", "run_pretrain.sh", "--set")
    _, calls = cluster(*words, f"dataset.store={store}", nodes=1)
    (copy,) = scratch.iterdir()
    assert copy.name.startswith("real-") and f" --set dataset.store={copy} " in calls[-1]
    assert (copy / "fs100" / "meta.json").read_text() == "{}"
    (copy / "mark").write_text("")
    cluster(*words, f"dataset.store={store}", nodes=1)
    assert (copy / "mark").exists(), "copied once more"
    other = tmp_path / "others" / "real"  # another store of that name
    (other / "fs100").mkdir(parents=True)
    (other / "fs100" / "meta.json").write_text('{"records": 2}')
    _, calls = cluster(*words, f"dataset.store={other}", nodes=1)
    (second,) = {*scratch.iterdir()} - {copy}
    assert f" --set dataset.store={second} " in calls[-1] and not (second / "mark").exists()
    done, _ = cluster(*words, "seed=1", nodes=1)
    assert done.returncode == 2 and "give --set dataset.store=STORE" in done.stderr


def test_wrong_words_and_a_machine_without_slurm_are_said(cluster, tmp_path):
    for words, sentence in {
        ("--nodes=2",): "what to run is missing",
        ("--", "python", "main.py"): "run_pretrain.sh or run_downstream.sh, not python",
    }.items():
        done, _ = cluster(*words)
        assert done.returncode == 2 and sentence in done.stderr
    (tmp_path / "bin" / "sbatch").unlink()
    done, _ = cluster("--", "run_pretrain.sh", "--exp_name", "a")
    assert done.returncode == 2 and "this machine is no Slurm cluster" in done.stderr
    done, _ = cluster("-h")
    assert done.returncode == 0 and done.stdout.startswith("Train on a Slurm cluster")
