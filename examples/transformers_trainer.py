"""Teaches a tiny language model which of two numbers is larger, with VSGD in the Trainer of transformers."""

import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

import varigrad

set_seed(0)
triples = torch.tensor([[a, b, max(a, b)] for a in range(10) for b in range(10)])
# Only the third number can be foretold: the labels of the others are left out with -100.
data = [{"input_ids": row, "labels": torch.where(torch.arange(3) < 2, -100, row)} for row in triples]
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=10, n_positions=3, n_embd=32, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=0)
)

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        learning_rate=3e-3,
        weight_decay=0.01,
        num_train_epochs=40,
        per_device_train_batch_size=20,
        warmup_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    # The Trainer sorts out which parameters decay; the learning rate it leaves to the optimizer's own arguments.
    optimizer = (varigrad.VSGD, {"lr": arguments.learning_rate})
    Trainer(model, arguments, train_dataset=data, optimizer_cls_and_kwargs=optimizer).train()

with torch.no_grad():
    answers = model.eval()(triples).logits[:, 1].argmax(1)
print(f"answers that are right: {(answers == triples[:, 2]).float().mean():.1%}")
