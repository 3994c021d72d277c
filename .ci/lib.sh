# Helpers that the scripts of this folder source. Sourcing moves to the repository's root and makes $scratch, an empty
# folder that is removed at the end, when the seconds of every step are printed.
set -euo pipefail
exec </dev/null
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export HF_HUB_OFFLINE=1 # everything the tests need comes with the packages
export PIP_DISABLE_PIP_VERSION_CHECK=1
export PIP_COMPILE=0  # byte-compiling every package takes longer than importing a few
unset PYTHONPATH PYTEST_ADDOPTS

scratch=$(mktemp -d)
step_name='' step_start=0 step_times=''

# End the step that runs, and begin the step $1; without $1 only end it.
step() {
  if [[ -n $step_name ]]; then
    step_times+=$(printf '%5d s  %s' $((SECONDS - step_start)) "$step_name")$'\n'
  fi
  step_name=${1-} step_start=$SECONDS
  if [[ -n $step_name ]]; then
    printf '\n== %s\n' "$step_name"
  fi
}

finish() {
  local status=$?
  step
  rm -rf "$scratch"
  # On the error stream: the last line of the output stays the summary of pytest.
  printf '\n%s%5d s  in all, exit status %d\n' "$step_times" "$SECONDS" "$status" >&2
}
trap finish EXIT

# The one set-up command of README.md, from its bash blocks, that ends in "&& $1".
readme_command() {
  local commands
  commands=$(sed -n '/^```bash$/,/^```$/p' README.md | grep -E "^pip install .* && $1\$") || true
  if [[ -z $commands || $commands == *$'\n'* ]]; then
    echo "README.md must hold exactly one command 'pip install ... && $1' in its bash blocks; found: ${commands:-none}" >&2
    return 1
  fi
  printf '%s\n' "$commands"
}

# Make the empty environment that `in_environment` uses.
make_environment() {
  python3 -m venv "$scratch/environment"
}

# Run a command line in the environment, as a user who has activated it.
in_environment() {
  VIRTUAL_ENV=$scratch/environment PATH=$scratch/environment/bin:$PATH bash -euo pipefail -c "$1"
}

# Install what the tests need, by the command of README.md without its last part.
install_for_development() {
  local command
  command=$(readme_command 'pytest')
  in_environment "${command% && pytest}"
}

# Install a browser where there is none; without one, the test that opens the report is skipped.
install_browser() {
  if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    return
  fi
  if ! { apt-get update && apt-get install -y chromium chromium-driver; }; then
    echo 'no browser could be installed: the test that opens the report is skipped' >&2
  fi
}
