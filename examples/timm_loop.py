"""A loop as timm's, with its optimizer of named parameter groups, under ``adaptive``; no download.

usage: examples/timm_loop.py
"""

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.utils import AverageMeter, accuracy
from torch.nn.functional import cross_entropy

from toolkit import Reading, ScheduledLR, adaptive

EPOCHS, BATCH = 10, 32


def stripes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy images with stripes that lie or stand; which of the two is the label."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=draw)
    lying = torch.sin(torch.arange(16.0)).expand(3, 16, 16)
    images = torch.stack([lying.mT if label else lying for label in labels])
    return images + torch.randn(images.shape, generator=draw), labels


def main() -> float:
    """Train, and return the accuracy on images not seen, in per cent."""
    torch.manual_seed(0)
    settings = {"layers": (1, 1), "channels": (8, 16), "stem_chs": 8}
    model = timm.create_model("resnetv2_18", num_classes=2, **settings)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-5, weight_decay=0.05)
    images, labels = stripes(640, seed=1)
    per_epoch = len(images) // BATCH
    lr = ScheduledLR(optimizer, adaptive(), EPOCHS * per_epoch, model)
    update = 0
    for epoch in range(EPOCHS):
        losses = AverageMeter()
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            loss = cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            update += 1
            losses.update(loss.item(), len(batch))
            lr.observe(Reading.of(update, update / per_epoch, loss.item()))
            lr.step()  # in place of timm's scheduler.step_update(update)
        print(f"epoch {epoch}: loss {losses.avg:.3f}, LR {lr.used[0]:.3g}")
    images, labels = stripes(200, seed=2)
    with torch.no_grad():
        return float(accuracy(model.eval()(images), labels)[0])


if __name__ == "__main__":
    print(f"accuracy {main():.1f} %")
