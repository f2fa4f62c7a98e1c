"""Train the concierge model. Stops and resumes at any time; the learning rate falls only at the end of the time budget.

Usage: python scripts/concierge/train.py --run long --minutes 300
       python scripts/concierge/train.py --run long                         (resume)
       python scripts/concierge/train.py --run long --decay-now --minutes 30  (finish early)
       python scripts/concierge/train.py --run second --branch first --minutes 300  (go on from another run's peak rate)
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from batches import Batch, Documents, Stream
from corpus import DEFAULT_WORK
from model import Concierge, Shape
from muon import Muon
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

WARM_UP_STEPS = 60


@dataclass
class Status:
    """How far a run has come."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    decay_from: float = 0.0
    end: float = 0.0
    epoch: int = 0
    position: int = 0
    drill_epoch: int = 0
    drill_position: int = 0

    def rate(self) -> float:
        """Return the factor on the learning rates: warm-up by steps, then constant, then falling to zero by time."""
        warm = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        left = (self.end - self.seconds) / max(1e-9, self.end - self.decay_from)
        return warm * max(0.0, min(1.0, left))


@dataclass
class Meter:
    """Averages since the last report."""

    loss: float = 0.0
    steps: int = 0
    tokens: int = 0
    since: float = field(default_factory=time.monotonic)

    def add(self, loss: float, tokens: int) -> None:
        """Count one step."""
        self.loss += loss
        self.steps += 1
        self.tokens += tokens

    def take(self) -> tuple[float, float]:
        """Return mean loss and tokens per second, and start again."""
        now = time.monotonic()
        values = self.loss / max(1, self.steps), self.tokens / max(1e-9, now - self.since)
        self.loss, self.steps, self.tokens, self.since = 0.0, 0, 0, now
        return values


class Trainer:
    """One training run: model, optimizers, data and where it stands."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder: Path = options.work / "runs" / options.run
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device(options.device)
        self.shape = Shape(num_layers=options.layers, intermediate_size=options.intermediate)
        self.status = Status()
        saved = self._load()
        if saved:
            self.shape = Shape(**saved["shape"])
        torch.manual_seed(options.seed)
        self.model = Concierge(self.shape).to(self.device)
        self.optimizers = self._optimizers()
        if saved:
            self._restore(saved)
        self._plan()
        data = Documents(options.work / "train")
        self.stream = Stream(data, options.seed, self.status.epoch, self.status.position)
        drills = Documents(options.work / "drills")
        self.drills = Stream(drills, options.seed, self.status.drill_epoch, self.status.drill_position)
        self.held = {name: Documents(options.work / f"held_out_{name}") for name in ("dialogues", "stories", "drills")}
        self.weights = torch.tensor([0.0, options.user_weight, options.result_weight, 1.0, 1.0], device=self.device)
        self.stopping = False

    # --- state ---------------------------------------------------------------------------------------------------

    def _load(self) -> dict[str, Any] | None:
        """Return the saved state of this run, or of the run that it branches from."""
        own = self.folder / "state.pt"
        source = self.options.work / "runs" / (self.options.branch or "") / "before_decay.pt"
        path = own if own.exists() else source if self.options.branch else None
        return torch.load(path, map_location=self.device, weights_only=True) if path else None

    def _restore(self, saved: dict[str, Any]) -> None:
        """Put a saved state in place."""
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.status = Status(**saved["status"])
        if not (self.folder / "state.pt").exists():
            self.status.epoch = self.status.position = self.status.drill_epoch = self.status.drill_position = 0

    def _plan(self) -> None:
        """Set when the decay begins and the run ends, if the options say so."""
        if self.options.minutes is None:
            if not self.status.end:
                raise SystemExit("a new run needs --minutes")
            return
        budget = self.options.minutes * 60
        if self.options.decay_now:
            self.status.decay_from, self.status.end = self.status.seconds, self.status.seconds + budget
        else:
            self.status.decay_from, self.status.end = budget * (1 - self.options.decay_share), budget

    def save(self, name: str = "state.pt") -> None:
        """Write the whole state; a half-written file never takes the place of a good one."""
        self.status.epoch, self.status.position = self.stream.epoch, self.stream.position
        self.status.drill_epoch, self.status.drill_position = self.drills.epoch, self.drills.position
        state = {
            "shape": self.shape.to_dict(),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "status": asdict(self.status),
        }
        temporary = self.folder / f"{name}.part"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / name)

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Muon for the layers' matrices and AdamW for the embedding and the gains."""
        matrices = [p for name, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in self.model.named_parameters() if p.ndim < 2 or "embed" in name]
        adam = {"lr": self.options.adam_rate, "betas": (0.9, 0.95), "weight_decay": 0.0}
        if self.options.optimizer == "adamw":
            return [torch.optim.AdamW([*matrices, *others], **adam)]
        return [
            Muon(matrices, lr=self.options.muon_rate, weight_decay=self.options.weight_decay),
            torch.optim.AdamW(others, **adam),
        ]

    # --- work ----------------------------------------------------------------------------------------------------

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the summed weighted loss and its weight; tokens of no weight are not even projected."""
        tokens, targets, labels = (part.to(self.device) for part in (batch.tokens, batch.targets, batch.labels))
        weights = self.weights[labels]
        counted = weights > 0
        losses = self.model.losses(tokens, targets, batch.lengths, counted)
        return (losses * weights[counted]).sum(), weights.sum()

    def _next_batches(self) -> list[Batch]:
        """Return the documents of a step: many copying drills at first, few later."""
        early = self.status.tokens < self.options.drill_tokens
        drill = int(self.options.tokens * (self.options.drill_share if early else self.options.drill_share / 10))
        batches = self.stream.next_step(self.options.tokens - drill, self.options.micro)
        return batches + (self.drills.next_step(drill, self.options.micro) if drill else [])

    def step(self) -> float:
        """Do one optimizer step; return the loss."""
        batches = self._next_batches()
        total = sum(float(self.weights[batch.labels.to(self.device)].sum()) for batch in batches)
        loss = 0.0
        for batch in batches:
            part, _ = self._loss(batch)
            (part / total).backward()
            loss += part.item() / total
        factor = self.status.rate()
        torch.nn.utils.clip_grad_norm_(self.optimizers[-1].param_groups[0]["params"], 1.0)
        for optimizer, peak in zip(self.optimizers, self._peaks(), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.status.step += 1
        self.status.tokens += sum(len(batch.tokens) for batch in batches)
        return loss

    def _peaks(self) -> list[float]:
        """Return the highest learning rate of each optimizer."""
        rates = [self.options.muon_rate, self.options.adam_rate]
        return rates[-len(self.optimizers) :]

    @torch.no_grad()
    def held_out(self, documents: int = 40) -> dict[str, float]:
        """Return the loss per held-out token: the assistant's words in dialogues, and stories."""
        values = {}
        for name, data in self.held.items():
            total, count = 0.0, 0
            for index in range(min(documents, len(data))):
                batch = data.pack([index])
                counted = batch.labels >= 3
                losses = self.model.losses(
                    batch.tokens.to(self.device), batch.targets.to(self.device), batch.lengths, counted.to(self.device)
                )
                total, count = total + losses.sum().item(), count + int(counted.sum())
            values[name] = total / count
        return values

    # --- the run -------------------------------------------------------------------------------------------------

    def log(self, record: dict[str, Any]) -> None:
        """Append a line to the log."""
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def stop(self, *_: Any) -> None:
        """Finish the current step, save and leave; called by signals."""
        self.stopping = True

    def run(self, report: Reporter) -> None:
        """Train until the time budget is spent or a signal comes."""
        meter = Meter()
        saved = evaluated = time.monotonic()
        while self.status.seconds < self.status.end and not self.stopping:
            before = time.monotonic()
            decaying = self.status.seconds >= self.status.decay_from
            tokens = self.status.tokens
            loss = self.step()
            meter.add(loss, self.status.tokens - tokens)
            now = time.monotonic()
            self.status.seconds += now - before
            if not decaying and self.status.seconds >= self.status.decay_from:
                self.save("before_decay.pt")
            record: dict[str, Any] = {}
            if now - evaluated > self.options.evaluate_minutes * 60:
                record |= {f"held_out_{name}": round(value, 4) for name, value in self.held_out().items()}
                evaluated = time.monotonic()
            if meter.steps >= 20 or record:
                mean, speed = meter.take()
                record |= {
                    "step": self.status.step,
                    "tokens": self.status.tokens,
                    "seconds": round(self.status.seconds, 1),
                }
                record |= {
                    "loss": round(mean, 4),
                    "tokens_per_second": round(speed),
                    "rate": round(self.status.rate(), 4),
                }
                self.log(record)
                report.show(self.status, record)
            if now - saved > self.options.checkpoint_minutes * 60:
                self.save()
                saved = time.monotonic()
        self.save()
        final = {f"held_out_{name}": round(value, 4) for name, value in self.held_out().items()}
        final |= {"step": self.status.step, "tokens": self.status.tokens, "seconds": round(self.status.seconds, 1)}
        self.log(final)
        report.show(self.status, final)
        plot(self.folder)


class Reporter:
    """Shows progress: a bar on a terminal, plain lines elsewhere."""

    def __init__(self, end: float) -> None:
        self.bar: Progress | None = None
        if sys.stdout.isatty():
            columns = ("[progress.description]{task.description}", "{task.fields[numbers]}")
            self.bar = Progress(TextColumn(columns[0]), BarColumn(), TimeElapsedColumn(), TextColumn(columns[1]))
            self.task = self.bar.add_task("training", total=end, numbers="")
            self.bar.start()

    def show(self, status: Status, record: dict[str, Any]) -> None:
        """Show a record of the log."""
        left = max(0.0, status.end - status.seconds) / 60
        parts = [f"{key.replace('_', ' ')} {value}" for key, value in record.items() if key not in ("seconds",)]
        line = ", ".join([*parts, f"{left:.0f} min left"])
        if self.bar:
            self.bar.update(self.task, completed=status.seconds, numbers=line)
        else:
            print(line, flush=True)

    def close(self) -> None:
        """Leave the terminal in order."""
        if self.bar:
            self.bar.stop()


def plot(folder: Path) -> None:
    """Draw the loss curves of a run as loss.png; without matplotlib there is no picture."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    figure, axes = plt.subplots(figsize=(7, 4), dpi=100)
    curves = {
        "loss": "training (weighted)",
        "held_out_dialogues": "held-out dialogues, assistant",
        "held_out_stories": "held-out stories",
        "held_out_drills": "copying drills",
    }
    for key, label in curves.items():
        points = [(r["tokens"] / 1e6, r[key]) for r in records if key in r]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, linewidth=1)
    axes.set(xlabel="million tokens", ylabel="loss (nats per token)", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    figure.savefig(folder / "loss.png")
    plt.close(figure)


def options_from(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="folder with the prepared data")
    parser.add_argument("--run", default="main", help="name of the run; its files are in WORK/runs/NAME")
    parser.add_argument("--branch", help="start from the peak-rate checkpoint of another run")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--minutes", type=float, help="time budget of the whole run, or of the decay with --decay-now")
    parser.add_argument("--decay-share", type=float, default=0.3, help="share of the budget in which the rate falls")
    parser.add_argument("--decay-now", action="store_true", help="let the rate fall from now on")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per step")
    parser.add_argument("--micro", type=int, default=2048, help="tokens per micro-batch")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=0.008)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--user-weight", type=float, default=0.3, help="loss weight of the user's words")
    parser.add_argument("--result-weight", type=float, default=0.1, help="loss weight of function results")
    parser.add_argument(
        "--drill-share", type=float, default=0.3, help="share of copying drills at first, a tenth later"
    )
    parser.add_argument("--drill-tokens", type=float, default=2e6, help="tokens after which there are few drills")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--intermediate", type=int, default=768)
    parser.add_argument("--checkpoint-minutes", type=float, default=5)
    parser.add_argument("--evaluate-minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args(arguments)


def main() -> None:
    """Run or resume a training run."""
    options = options_from()
    torch.set_num_threads(options.threads)
    trainer = Trainer(options)
    signal.signal(signal.SIGTERM, trainer.stop)
    signal.signal(signal.SIGINT, trainer.stop)
    size = sum(p.numel() for p in trainer.model.parameters())
    print(f"{size / 1e6:.2f} million parameters, {len(trainer.stream.documents)} documents", flush=True)
    report = Reporter(trainer.status.end)
    try:
        trainer.run(report)
    finally:
        report.close()


if __name__ == "__main__":
    main()
