"""What is given of the objects: masks, boxes, points, proposals."""
