"""Three losses of one's own. Try them: lossc check losses.py"""

import lossc


@lossc.loss("Huber")
def huber(pred, target, *, delta=1.0):
    """Quadratic near the target, linear far from it (Huber, 1964)."""
    r = lossc.abs(pred - target)
    return lossc.where(r < delta, 0.5 * r * r, delta * (r - 0.5 * delta)).sum() / pred.shape[0]


@lossc.loss("Triplet")
def triplet(anchor, positive, negative, *, margin=0.2):
    """An anchor is to be nearer to its like than to another, by a margin (Schroff et al., 2015)."""
    near = lossc.square(anchor - positive).sum(1)
    far = lossc.square(anchor - negative).sum(1)
    return lossc.clip(near - far + margin, 0).mean()


@lossc.loss("MultiTask")
def multi_task(scores, label, pred, target, *, log_variance=lossc.Param((2,))):
    """Classification and regression, weighed by how uncertain each is, which is learned (Kendall et al., 2018)."""
    entropy = -lossc.take_along_axis(lossc.log_softmax(scores, 1), label[:, None], 1).mean()
    distance = lossc.square(pred - target).sum(1).mean()
    weights = lossc.exp(-log_variance)
    return weights[0] * entropy + 0.5 * weights[1] * distance + 0.5 * log_variance.sum()
