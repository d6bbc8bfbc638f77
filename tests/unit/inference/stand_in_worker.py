"""A worker without a model: it says the prompt again, one token a step, as the first argument
tells. It imports nothing, as the real ones import nothing of finery.
"""

import json
import os
import subprocess
import sys
import threading

OPTIONS = json.loads(sys.argv[1])
CANCELLED: list[int] = []


def say(**value: object) -> None:
    print(json.dumps(value), flush=True)


def step(number: int, message: dict) -> None:
    prompt = message["prompt"]
    if OPTIONS.get("refuse"):
        say(refused=[[number, OPTIONS["refuse"]]])
        return
    if prompt[0] == 666:
        print("the model fell over", file=sys.stderr, flush=True)
        os._exit(3)
    if prompt[0] == 777:  # goes on until it is cancelled, and then tells others that it was
        threading.Thread(target=endless, args=(number,), daemon=True).start()
        return
    if prompt[0] == 888:
        say(tokens=[[number, one] for one in CANCELLED], ended=[number])
        return
    for token in prompt[: message["max_new_tokens"]]:
        scores = [-0.5, [[token, -0.5], [1, -2.0]]] if message["logprobs"] is not None else []
        say(tokens=[[number, token, *scores]])
    say(ended=[number])


def endless(number: int) -> None:
    while number not in CANCELLED:
        say(tokens=[[number, 1]])
        threading.Event().wait(0.001)


def main() -> None:
    print("a library prints before we can stop it", flush=True)
    if OPTIONS.get("die"):
        print("no such model", file=sys.stderr, flush=True)
        sys.exit(1)
    if OPTIONS.get("orphan"):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    say(ready={"features": OPTIONS.get("features", [])})
    for line in sys.stdin:
        message = json.loads(line)
        if "cancel" in message:
            CANCELLED.append(message["cancel"])
        else:
            step(message["add"], message)


main()
