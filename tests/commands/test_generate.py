"""What is generated is read by those who will read it: YAML, Kubernetes, systemd, Prometheus."""

import json
import re
import subprocess
import sys

import kubernetes_validate
import promql_parser
import pytest
import yaml

from outlive.commands import main

KUBERNETES = ("1.32", "1.35")
"""The oldest release whose pods can sleep before they stop, and a new one."""
SHOP = """
from outlive import Outlive, Run, step

app = Outlive()


@step(timeout=100)
async def print_it(what: str) -> str:
    return what


@step
async def send_it(what: str) -> str:
    return what


@app.process("/books", version=1)
async def book(run: Run, what: str) -> str:
    return await run(send_it, await run(print_it, what))


service = app.asgi()
"""


@pytest.fixture
def generate(tmp_path, monkeypatch, capsys):
    """One command in this program: what it loads is small, and there are many of them."""
    (tmp_path / "press").mkdir()
    (tmp_path / "press" / "app.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("OUTLIVE_STORE", raising=False)

    def run(*arguments, target="press.app:service", **environment):
        for name in ("press", "press.app"):
            sys.modules.pop(name, None)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        code = main(["generate", arguments[0], target, *arguments[1:]])
        told = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, told.out, told.err)

    yield run
    for name in ("press", "press.app"):
        sys.modules.pop(name, None)


def files_in(done):
    """What was printed, by the name of each file."""
    assert done.returncode == 0, done.stderr
    parts = done.stdout.split("# --- ")[1:]
    return {part.split("\n")[0]: part.partition("\n")[2] for part in parts}


def objects_in(done):
    return list(yaml.safe_load_all(files_in(done)["kubernetes.yaml"]))


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_every_object_is_one_that_kubernetes_knows(generate, database):
    objects = objects_in(generate("k8s", "--database", database, "--image", "press:1.4"))
    for found in objects:
        for release in KUBERNETES:
            kubernetes_validate.validate(found, release, strict=True)
    kinds = [found["kind"] for found in objects]
    if database == "sqlite":
        assert kinds == ["Service", "StatefulSet"]
    else:
        assert kinds == ["Service", "Job", "PodDisruptionBudget", "Deployment"]
        assert objects[1]["metadata"]["name"] == "press-migrate-1-4"


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_a_pod_has_no_rights_and_the_time_that_its_steps_need(generate, database):
    objects = objects_in(generate("k8s", "--database", database))
    pods = [found["spec"]["template"]["spec"] for found in objects if "template" in found["spec"]]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}
    app = pods[-1]["containers"][0]
    grace = int(app["args"][app["args"].index("--grace-seconds") + 1])
    assert grace * 0.8 >= 100, "the longest time limit of a step is 100 s"
    settle = app["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pods[-1]["terminationGracePeriodSeconds"] > grace + settle
    probes = [app[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness")]
    assert [*probes, app["readinessProbe"]["httpGet"]["path"]] == ["/startupz", "/livez", "/readyz"]


def test_on_sqlite_there_is_one_with_a_volume_and_on_postgresql_a_secret(generate):
    *_, stateful = objects_in(generate("k8s", "--database", "sqlite", "--replicas", "5"))
    assert stateful["spec"]["replicas"] == 1
    (claim,) = stateful["spec"]["volumeClaimTemplates"]
    pod = stateful["spec"]["template"]["spec"]["containers"][0]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["volumeMounts"]}
    assert pod["env"][0]["value"].startswith(f"sqlite:///{mounts[claim['metadata']['name']]}/")
    done = generate("k8s", "--database", "postgres", "--replicas", "5")
    *_, deployment = objects_in(done)
    assert deployment["spec"]["replicas"] == 5
    pod = deployment["spec"]["template"]["spec"]["containers"][0]
    (variable,) = pod["env"]
    assert variable["name"] == "OUTLIVE_STORE"
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "press-store", "key": "url"}


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_compose_refers_to_secrets_and_keeps_the_file_system_shut(generate, database):
    files = files_in(generate("compose", "--database", database))
    made = yaml.safe_load(files["compose.yaml"])
    for name, service in made["services"].items():
        if name != "database":
            assert service["read_only"] and service["cap_drop"] == ["ALL"]
            assert service["user"] != "0:0"
    text = files["compose.yaml"]
    if database == "postgres":
        assert set(made["services"]) == {"app", "migrate", "database"}
        assert "${POSTGRES_PASSWORD:?" in text
        assert made["services"]["migrate"]["command"][:3] == ["outlive", "db", "migrate"]
    assert made["services"]["app"]["stop_grace_period"] == "142s"
    assert "Without a limit: send_it." in text
    image = files["Dockerfile"]
    assert "\nUSER 10001:10001\n" in image and "\nHEALTHCHECK " in image
    assert image.index("USER") < image.index('CMD ["outlive"')


def test_what_a_project_names_is_what_the_image_installs(generate, tmp_path):
    assert "pip install --no-cache-dir 'outlive[fast]'" in generate("dockerfile").stdout
    (tmp_path / "pyproject.toml").write_text("")
    assert "/venv/bin/pip install --no-cache-dir ." in generate("dockerfile").stdout
    (tmp_path / "requirements.txt").write_text("")
    assert "-r requirements.txt" in generate("dockerfile").stdout
    assert "postgres" not in generate("dockerfile").stdout
    for name in ("requirements.txt", "pyproject.toml"):  # what the project names may lack it
        made = generate("dockerfile", "--database", "postgres").stdout
        assert "pip install --no-cache-dir 'outlive[postgres]'" in made, name
        (tmp_path / name).unlink()


def test_no_two_tags_share_a_migration_however_long_they_are(generate):
    long = f"press:{'a' * 120}"
    names = set()
    for image in (f"{long}1", f"{long}2"):
        job = objects_in(generate("k8s", "--database", "postgres", "--image", image))[1]
        names.add(job["metadata"]["name"])
        assert re.fullmatch(r"press-migrate-a+-[0-9a-f]{8}", job["metadata"]["name"])
        assert len(job["metadata"]["name"]) <= 63
    assert len(names) == 2


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_systemd_takes_the_unit(generate, tmp_path, database):
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "outlive").symlink_to(sys.executable)
    made = generate("systemd", "--database", database, "--folder", str(tmp_path), "-o", "units")
    assert made.stdout == "units/press.service\n", made.stderr
    unit = tmp_path / "units" / "press.service"
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    # What is wrong with a unit is a warning; those about the machine's own units name those.
    assert "press.service" not in done.stderr, done.stderr


def metrics_of_everything() -> set[str]:
    """The names of the samples that /metrics gives when everything is declared and has happened."""
    from collections import Counter

    from outlive import Outlive, best_effort
    from outlive.kinds.processes import COMMIT_SECONDS, Stats
    from outlive.kinds.processes.limits import Backlog
    from outlive.web import metered, metrics

    app = Outlive("memory://")
    app.dependency("bank")

    @app.cache(best_effort())
    async def price(article: str) -> int:
        return 1

    latency = (1,) * (len(COMMIT_SECONDS) + 1)
    happened = Stats(ended={"done": 1}, starts_refused={"backlog": 1}, commit_latency=latency)
    app.stats = lambda: happened  # type: ignore[method-assign]
    page = metrics.Metrics(app)
    page.answered = Counter({("order", "start", 202): 1})
    waiting = {"order": Backlog(1, 1.0)}
    lines = [
        *page._lines(), *metrics._latency(happened), *metrics._queued(waiting),
        *metered.lines_of_dependencies(app), *metered.lines_of_caches(app),
    ]  # fmt: skip
    return {line for line in lines if not line.startswith("#")}


def selectors_in(expression):
    """The names and labels that a PromQL expression asks for; raises when it is none."""
    found = []

    def visit(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        for name in ("expr", "lhs", "rhs", "vector_selector", "args"):
            inner = getattr(node, name, None)
            for each in inner if isinstance(inner, list) else [inner] * (inner is not None):
                visit(each)

    visit(promql_parser.parse(expression))
    return found


def test_every_name_on_the_dashboard_and_in_the_alerts_is_one_that_metrics_gives(generate):
    board = json.loads(generate("grafana").stdout)
    rules = yaml.safe_load(generate("alerts").stdout)["groups"][0]["rules"]
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    expressions += [rule["expr"] for rule in rules]
    samples = metrics_of_everything()
    given = {}
    for sample in samples:
        name, _, labels = sample.partition(" ")[0].partition("{")
        given.setdefault(name, set()).update(
            part.partition("=")[0] for part in labels.rstrip("}").split(",") if part
        )
    asked = [selector for each in expressions for selector in selectors_in(each)]
    assert len(asked) >= len(expressions) >= 20
    for selector in asked:
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert "job" in labels, selector
        if selector.name != "up":  # Prometheus' own
            assert selector.name in given, f"{selector.name} is not in /metrics"
            assert labels - {"job"} <= given[selector.name], selector
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names)
    assert all(rule["annotations"]["description"] for rule in rules)


def test_a_metric_that_does_not_exist_would_be_found():
    (selector,) = selectors_in('rate(outlive_nothing_total{job="press"}[5m])')
    assert selector.name == "outlive_nothing_total"
    assert not any(line.startswith("outlive_nothing") for line in metrics_of_everything())


def test_files_are_written_and_never_over_others(generate, tmp_path):
    done = generate("k8s", "-o", "deploy")
    assert done.returncode == 0
    written = {str(path.relative_to(tmp_path)) for path in (tmp_path / "deploy").iterdir()}
    assert set(done.stdout.split()) == written
    (tmp_path / "deploy" / "Dockerfile").write_text("mine")
    (tmp_path / "deploy" / "kubernetes.yaml").unlink()
    done = generate("k8s", "-o", "deploy")
    assert done.returncode == 4 and "nothing was written (--force" in done.stderr
    assert not (tmp_path / "deploy" / "kubernetes.yaml").exists()
    assert (tmp_path / "deploy" / "Dockerfile").read_text() == "mine"
    assert generate("k8s", "-o", "deploy", "--force").returncode == 0
    assert (tmp_path / "deploy" / "Dockerfile").read_text() != "mine"


@pytest.mark.parametrize(
    "wrong",
    [
        ("k8s", "--image", 'a" b'),
        ("k8s", "--name", "Bad Name"),
        ("k8s", "--name", "on"),
        ("k8s", "--replicas", "0"),
        ("k8s", "--volume", "much"),
        ("k8s", "--port", "80"),
        ("systemd", "--folder", "relative"),
        ("dockerfile", "--python", "2"),
        ("helm",),
    ],
)
def test_a_word_that_would_break_the_files_is_refused(generate, wrong):
    done = generate(*wrong)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_store_in_memory_is_not_deployed_and_a_missing_app_is_said(generate):
    done = generate("k8s", OUTLIVE_STORE="memory://")
    assert done.returncode == 2 and "a store in memory" in done.stderr
    assert generate("k8s", target="nowhere:app").returncode == 2


def test_the_store_that_is_named_decides(generate):
    done = generate("k8s", OUTLIVE_STORE="postgresql://ann:secret@db/shop")
    assert objects_in(done)[-1]["kind"] == "Deployment"
    assert "secret@db" not in done.stdout and "ann:" not in done.stdout
