"""Values in commands arrive as one word and execute nothing, however the command quotes them.

Every command here is run by a real bash.
"""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from finery.errors import InputError
from finery.jobs.command import filled
from finery.jobs.spec import StepSpec

EVIL = (
    "a b",
    "it's",
    'say "hi"',
    "$(touch pwned)",
    "`touch pwned`",
    "x; touch pwned",
    "' ; touch pwned ; '",
    '" ; touch pwned ; "',
    "a\\b",
    "ends with \\",
    "$HOME ${HOME} *",
    "{a,b} ~ !! #x",
    "&& touch pwned",
    "}'\")",
    "",
    "ümlaut 漢字",
)
PLACES = {
    "bare": "printf '<%s>' ${{inputs.x}}",
    "in double quotes": 'printf "<%s>" "${{inputs.x}}"',
    "in single quotes": "printf '<%s>' '${{ inputs.x }}'",
    "in ansi quotes": "printf '<%s>' $'${{inputs.x}}'",
    "after a comment with a quote": "# don't stop\nprintf '<%s>' ${{inputs.x}}",
    "beside a comment sign": "printf '<%s>' ${{inputs.x}} # isn't it",
    "in a substitution": "printf '<%s>' \"$(printf %s. ${{inputs.x}})\"",
    "quoted in a substitution": 'v="$(printf %s. "${{inputs.x}}")"; printf \'<%s>\' "$v"',
    "after quotes in a substitution": 'y="$(echo "a")"; printf \'<%s>\' ${{inputs.x}}',
    "in an assignment": "v=${{inputs.x}}; printf '<%s>' \"$v\"",
    "as a bare default": "v=${unset:-${{inputs.x}}}; printf '<%s>' \"$v\"",
    "in a subshell": "(printf '<%s>' ${{inputs.x}})",
    "in an array": "a=(${{inputs.x}}); printf '<%s>' \"${a[@]}\"",
    "after a case": "case a in a) ;; esac; printf '<%s>' ${{inputs.x}}",
    "after arithmetic": "n=$((1<<3)); ((n)); printf '<%s>' ${{inputs.x}}",
    "after escaped quotes": "printf '<%s>' \\\"\\' ${{inputs.x}}",
    "in a here string": "read -r v <<< ${{inputs.x}}; printf '<%s>' \"$v\"",
    "in a here document": "v=$(cat <<EOF\n\"don't ${{inputs.x}}.\nEOF\n); printf '<%s>' \"$v\"",
    "in a quoted here document": "cat <<'EOF'\n\"don't ${{inputs.x}}\nEOF\necho ${{inputs.x}}",
    "in an indented here document": "cat <<-EOF\n\tit's ${{inputs.x}}\n\tEOF\necho ${{inputs.x}}",
}
ARRIVES = {
    "in a substitution": "<{}.>",
    "quoted in a substitution": "<{}.>",
    "after escaped quotes": "<\"'><{}>",
    "in a here document": "<\"don't {}.>",
    "in a quoted here document": "\"don't {}\n{}\n",
    "in an indented here document": "it's {}\n{}\n",
}


def ran(command: str, value: str, folder: Path) -> str:
    text = filled(StepSpec("a", command=command), {"x": {"value": value}}, {})
    done = subprocess.run(
        ["bash", "-c", text], cwd=folder, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), text
    return done.stdout


@pytest.mark.parametrize("value", EVIL)
@pytest.mark.parametrize("place", PLACES)
def test_a_value_arrives_as_one_word_and_executes_nothing(
    place: str, value: str, tmp_path: Path
) -> None:
    expected = ARRIVES.get(place, "<{}>").replace("{}", value)
    if place == "in a here string" and value.endswith("\\"):
        expected = f"<{value}>"
    assert ran(PLACES[place], value, tmp_path) == expected
    assert list(tmp_path.iterdir()) == []


def test_any_text_arrives_bare_and_in_both_quotes() -> None:
    """Random texts of what means something to bash, many in one command."""
    letters, dice = "ab \t\n'\"\\`$(){}[]<>|&;#!*?~=-é", random.Random(7)  # noqa: S311
    values = ["".join(dice.choices(letters, k=dice.randrange(12))) for _ in range(300)]
    inputs = {f"x{at}": {"value": value} for at, value in enumerate(values)}
    command = "\n".join(
        f"printf '%s\\0' ${{{{inputs.{name}}}}} '${{{{inputs.{name}}}}}' \"${{{{inputs.{name}}}}}\""
        for name in inputs
    )
    text = filled(StepSpec("a", command=command), inputs, {})
    out = subprocess.run(["bash", "-c", text], capture_output=True, check=True).stdout
    arrived = out.decode().split("\0")[:-1]
    assert arrived == [value for value in values for _ in range(3)]


def test_a_path_goes_on_behind_the_value(tmp_path: Path) -> None:
    assert ran("printf '<%s>' --data=${{inputs.x}}/f.txt", "/a b/c", tmp_path) == (
        "<--data=/a b/c/f.txt>"
    )


def test_plain_values_stand_as_they_are() -> None:
    step = StepSpec("a", command="train ${{inputs.x}} `${{inputs.x}}` $((${{inputs.x}} + 1))")
    assert filled(step, {"x": {"value": "5"}}, {}) == "train 5 `5` $((5 + 1))"


@pytest.mark.parametrize(
    ("command", "value", "remedy"),
    [
        ("echo `cat ${{inputs.x}}`", "a b", "$(…)"),
        ('echo "${x:-${{inputs.x}}}"', "{a,b}", "variable"),
        ("echo $((${{inputs.x}}))", "a[$(touch pwned)]", "number"),
        ("cat <<EOF\n${{inputs.x}}\nEOF", "a\nEOF\ntouch pwned", "several lines"),
    ],
)
def test_a_value_that_no_quoting_makes_safe_is_refused(
    command: str, value: str, remedy: str
) -> None:
    with pytest.raises(InputError, match="command") as caught:
        filled(StepSpec("a", command=command), {"x": {"value": value}}, {})
    assert remedy in str(caught.value)
