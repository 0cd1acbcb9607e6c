#!/bin/sh
# Install PyTorch into .venv where it has none: without an NVIDIA GPU its build for the CPU, since what
# pip finds on Linux brings 3.5 GB of CUDA. TORCH=cpu or TORCH=cuda decides by hand, and replaces a
# build of the other kind. Where nothing is installed here, `pip install promptbake` brings PyTorch.
set -eu
cd "$(dirname "$0")/.."
HOST=download.pytorch.org
PYTHON=.venv/bin/python

pip() { "$PYTHON" -m pip --disable-pip-version-check "$@"; }

has_gpu() { nvidia-smi -L > /dev/null 2>&1 || test -e /proc/driver/nvidia; }

installed() { # cpu, cuda, or nothing
  "$PYTHON" -c 'import torch; print("cuda" if torch.version.cuda else "cpu")' 2> /dev/null || true
}

answers() { # timeout: a name that nobody resolves may take long
  timeout 5 "$PYTHON" -c "import urllib.request as r; r.urlopen('https://$HOST/whl/cpu/', timeout=5)" \
    > /dev/null 2>&1
}

case "${TORCH:-}" in
  cpu | cuda) wanted=$TORCH ;;
  "") test -z "$(installed)" && test "$(uname -s)" = Linux && ! has_gpu || exit 0
      wanted=cpu
      echo "no NVIDIA GPU: PyTorch for the CPU (the other one: make setup TORCH=cuda)" ;;
  *) echo "TORCH=$TORCH: give TORCH=cpu or TORCH=cuda" >&2; exit 2 ;;
esac

found=$(installed)
test "$found" != "$wanted" || exit 0
if test -n "$found"; then
  pip list --format freeze | sed -En 's/^(torch|triton|(nvidia|cuda)-[a-z0-9-]+)==.*/\1/p' |
    xargs "$PYTHON" -m pip uninstall --quiet --yes
fi
test "$wanted" = cpu && test "$(uname -s)" = Linux || exit 0
# Without dependencies: those that promptbake pins may not be in that index.
if answers; then
  pip install --quiet --constraint ci/constraints.txt --no-deps \
    --index-url "https://$HOST/whl/cpu" torch && exit 0
fi
echo "$HOST cannot be used: PyTorch is what pip finds elsewhere (from PyPI, 3.5 GB of CUDA with it)"
