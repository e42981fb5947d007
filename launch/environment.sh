# shellcheck shell=bash
# Sourced by the other scripts: makes .venv with everything this project needs, once per change of
# pyproject.toml. Takes the extras to install as its argument, e.g. `. launch/environment.sh api`.
# PYTHON chooses the interpreter, VENV the directory.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
VENV="${VENV:-.venv}"
extras="${1:-}"

if [ -z "${PYTHON:-}" ]; then
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      PYTHON="$candidate"
      break
    fi
  done
fi
if [ -z "${PYTHON:-}" ]; then
  echo "automem: needs Python 3.11 or newer; set PYTHON to its path" >&2
  exit 1
fi

target="."
[ -n "$extras" ] && target=".[$extras]"
stamp="$VENV/.installed-$(printf '%s' "$extras" | tr ',' '-')"
wanted="$(cat pyproject.toml | cksum)"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "setting up $VENV (${extras:-runtime}) with $("$PYTHON" --version)"
  if command -v uv >/dev/null 2>&1; then
    [ -x "$VENV/bin/python" ] || uv venv --quiet --python "$PYTHON" "$VENV" || exit 1
    uv pip install --quiet --python "$VENV/bin/python" -e "$target" || exit 1
  else
    [ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV" || exit 1
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -e "$target" || exit 1
  fi
  printf '%s\n' "$wanted" > "$stamp"
fi
PATH="$(cd "$VENV/bin" && pwd):$PATH"
export PATH
