"""Errors that concern the user's data; standard library only."""


class DataError(ValueError):
    """An error in the user's data or in how it was asked for; its text names the file and the remedy."""


class NoSplitError(DataError):
    """A data set has no split of the name asked for.

    Attributes:
        splits: names of the splits that were found; none where the data set is not split at all.
    """

    def __init__(self, message: str, splits: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.splits = splits
