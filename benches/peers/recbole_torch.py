#!/usr/bin/env python3
"""RecBole's BERT4Rec, Caser and NextItNet with its classes, defaults, masking and optimiser; only the data are
generated.

    pip install recbole==1.2.1 && python recbole_torch.py --model caser --T 50 --batch 2048

A sample is a sequence of full length. Caser and NextItNet predict one item of it, BERT4Rec a fifth (in half of its
batches the last one). A step of mipgpu predicts every item of a sequence. The comparison counts sequences/s, which
favours RecBole. RecBole's Caser convolves the whole sequence once, with filters of all heights up to its length;
mipgpu's convolves a window of 5 items at every position. The time to load data and to create prefixes is not counted.
"""
import argparse, logging, random, types
import torch
import peer


class Config(dict):
    """A setting that is not given is None, as in RecBole."""
    def __missing__(self, key): return None


MODELS = {
    "bert4rec": ("BERT4Rec", dict(n_layers=2, n_heads=2, hidden_size=64, inner_size=256, hidden_dropout_prob=0.2, attn_dropout_prob=0.2, hidden_act="gelu",
                                  layer_norm_eps=1e-12, initializer_range=0.02, mask_ratio=0.2, ft_ratio=0.5)),
    "caser": ("Caser", dict(embedding_size=64, dropout_prob=0.4, reg_weight=1e-4, nv=4, nh=8)),
    "nextitnet": ("NextItNet", dict(embedding_size=64, kernel_size=3, block_num=5, dilations=[1, 4], reg_weight=1e-5)),
}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    peer.flags(ap); ap.add_argument("--model", choices=list(MODELS), required=True); ap.add_argument("--users", type=int, default=6040)
    a = peer.settle(ap.parse_args())
    logging.disable(logging.WARNING); random.seed(a.seed)
    from recbole.data.interaction import Interaction
    from recbole.data.transform import MaskItemSequence
    from recbole.model import sequential_recommender
    name, own = MODELS[a.model]
    config = Config(USER_ID_FIELD="user_id", ITEM_ID_FIELD="item_id", LIST_SUFFIX="_list", ITEM_LIST_LENGTH_FIELD="item_length", NEG_PREFIX="neg_",
                    MAX_ITEM_LIST_LENGTH=a.T, device=a.device, loss_type="CE", learning_rate=a.lr, **own)
    data = types.SimpleNamespace(num=lambda field: a.V + 1, item_num=a.V + 1, user_num=a.users + 1)   # 0 is padding
    mask = MaskItemSequence(config) if a.model == "bert4rec" else None                                # writes names into the config
    model = getattr(sequential_recommender, name)(config, data).to(a.device)
    opt, every = torch.optim.Adam(model.parameters(), lr=a.lr), []
    for tok, n in peer.batches(a, 0, False):
        every.append({"user_id": torch.randint(1, a.users + 1, (a.batch,), device=a.device), "item_id_list": tok, "item_length": n, "item_id": peer.zipf_items((a.batch,), a.V, a.device)})

    def step(b):
        batch = Interaction(dict(b))
        if mask: batch = mask(data, batch)
        opt.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward(); opt.step()
        return loss.detach()

    rec = peer.facts(a, model, model=f"RecBole {name}", rows=sum(int(b["item_length"].sum()) for b in every), settings=own)
    for k in ("d", "dropout", "opt", "ce", "cheap_dropout", "compile", "bucket"): del rec[k]               # flags without effect on RecBole
    peer.timed(a, rec, step, every)
    peer.finish(a, rec)


if __name__ == "__main__":
    main()
