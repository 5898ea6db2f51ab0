"""What MLflow or a promotion cannot do, told in one message."""


class TrackingError(Exception):
    """The tracking server or its store cannot be used; the message says what to do."""


class PromotionError(Exception):
    """A promotion that could not be judged or carried out."""
