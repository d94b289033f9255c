"""larq-compute-engine in a process of its own, since its TensorFlow needs another NumPy; bench/peers/binary.py asks it.

Every line read is JSON: {"name", "channels", "size", "layers", "weights"} makes a network of binary 3x3 convolutions and
answers when its output on {"x"} is in {"out"}; {"run", "times"} answers with the milliseconds of one inference.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ |= {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}

import larq
import larq_compute_engine as lce
import numpy as np
import tf_keras as keras


def network(channels: int, size: int, layers: int, weight: Any) -> Any:
    """An interpreter of one thread. Outside the image stands +1, which is its fast padding."""
    made = keras.Sequential([keras.Input((size, size, channels))])
    for _ in range(layers):
        made.add(
            larq.layers.QuantConv2D(
                channels, 3, padding="same", pad_values=1.0, use_bias=False,
                input_quantizer="ste_sign", kernel_quantizer="ste_sign",
            )
        )  # fmt: skip
    for layer in made.layers:
        layer.set_weights([weight.transpose(2, 3, 1, 0)])  # height, width, in, out
    return lce.testing.Interpreter(lce.convert_keras_model(made), num_threads=1)


def main() -> None:
    """Answer until there is nothing more to read."""
    answers, sys.stdout = sys.stdout, sys.stderr  # its converter prints
    made: dict[str, tuple[Any, Any]] = {}
    for line in sys.stdin:
        told = json.loads(line)
        if "run" in told:
            interpreter, x = made[told["run"]]
            begun = time.perf_counter()
            for _ in range(told["times"]):
                interpreter.predict(x)
            answer = (time.perf_counter() - begun) / told["times"] * 1000
        else:
            x = np.load(told["x"]).transpose(0, 2, 3, 1)
            interpreter = network(told["channels"], told["size"], told["layers"], np.load(told["weights"]))
            made[told["name"]] = interpreter, x
            np.save(told["out"], np.asarray(interpreter.predict(x)).transpose(0, 3, 1, 2))
            answer = lce.__version__
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
