"""Frames with objects of a strong colour, and videos of such frames, for the tests of what is dreamt from them."""

import cv2
import numpy as np

RED, GREEN = (220, 20, 20), (20, 220, 20)


class Frames:
    """A video of given frames and label maps."""

    def __init__(self, images, labels):
        self._images, self._labels = images, labels
        self.num_frames = len(images)

    def image(self, t):
        return self._images[t].copy()

    def labels(self, t):
        return None if self._labels[t] is None else self._labels[t].copy()


def scene(height=48, width=64, boxes=((3, 0, (6, 8, 24, 30)), (7, 1, (34, 14, 56, 40)))):
    """A blue frame with a red object 3 and a green object 7."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2] = 200
    labels = np.zeros((height, width), np.uint8)
    for obj, channel, (x0, y0, x1, y1) in boxes:
        image[y0:y1, x0:x1] = 0
        image[y0:y1, x0:x1, channel] = 200
        labels[y0:y1, x0:x1] = obj
    return image, labels


def video(num_frames=1, **kwargs):
    image, labels = scene(**kwargs)
    return Frames([image] * num_frames, [labels] * num_frames)


def discs(height=96, width=144):
    """A grey textured frame with a red disc 3 and a green disc 7."""
    rng = np.random.default_rng(0)
    grey = np.clip(cv2.GaussianBlur(rng.normal(110, 60, (height, width)), (0, 0), 1.5), 0, 255)
    image, labels = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8), np.zeros((height, width), np.uint8)
    for obj, colour, center in ((3, RED, (45, 48)), (7, GREEN, (95, 50))):
        cv2.circle(image, center, 18, colour, -1)
        cv2.circle(labels, center, 18, obj, -1)
    return image, labels


def has_colour(image, channel):
    """Pixels where a channel is far above the others, after any of the colour jitter."""
    others = np.delete(image.astype(int), channel, axis=2).max(axis=2)
    return image[..., channel].astype(int) - others > 50


def iou(a, b):
    union = (a | b).sum()
    return (a & b).sum() / union if union else 1.0
