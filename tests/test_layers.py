"""The import order of DESIGN: a layer imports only what stands above it."""

import ast
from pathlib import Path

import automem_jax

ROOT = Path(automem_jax.__file__).parent
ORDER = [
    {
        "files",
        "terminal",
        "progress",
        "live",
        "provenance",
        "config",
        "sharding",
        "distributed",
        "envs",
        "text",
        "traces",
    },
    {"models", "agent"},
    {"sampling"},
    {"policies", "testing"},
    {"serve"},
    {"rollout"},
    {"selection"},
    {"training"},
    {"evaluation"},
    {"architect", "recipes"},
    {"report", "viewer", "forecast", "bench", "preflight"},
    {"stages"},
    {"cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
FORBIDDEN = {
    "agent": {"models", "sampling", "policies"},
    "selection": {"envs", "sampling", "models", "policies", "rollout"},
    "training": {"envs", "sampling", "policies", "rollout"},
}
# base.py of envs and of policies and the typed grid hold contracts, not implementations
CONTRACTS = {"automem_jax.envs.base", "automem_jax.envs.grid", "automem_jax.policies.base"}


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module == "automem_jax" else {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("automem_jax.")}


def test_layers_import_downwards_only():
    wrong = []
    for path in ROOT.rglob("*.py"):
        layer = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if layer == "__init__":
            continue
        assert layer in LEVEL, f"{path}: no place in ORDER for {layer}"
        for module in imported_modules(path) - CONTRACTS:
            other = module.split(".")[1]
            if other != layer and (
                LEVEL.get(other, 0) > LEVEL[layer] or other in FORBIDDEN.get(layer, ())
            ):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_agent_sees_no_environment_but_the_contract():
    for path in (ROOT / "agent").glob("*.py"):
        envs = {m for m in imported_modules(path) if m.startswith("automem_jax.envs")}
        assert envs <= CONTRACTS, path
