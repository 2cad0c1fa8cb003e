"""``art.exceptions``: what is raised where an estimator is none."""

from typing import Any

from .._names import only

__all__ = ["EstimatorError"]

__getattr__, __dir__ = only(__name__, __all__)


class EstimatorError(TypeError):
    """An attack cannot use an estimator.

    `this_class`: the attack's. `class_expected_list`: the classes of ART's that it asks for, none where ART is not
    installed. `classifier_given`: the estimator.
    """

    def __init__(self, this_class: type, class_expected_list: Any, classifier_given: Any):
        super().__init__(
            f"{this_class.__name__}: estimator must be a torch module, or have one as its model, such as ART's "
            f"PyTorchClassifier; got {type(classifier_given).__name__}"
        )
        self.this_class, self.class_expected_list = this_class, class_expected_list
        self.classifier_given = classifier_given


class Requirements:
    """The classes of ART's that an attack asks of an estimator, besides ``BaseEstimator``, by their names."""

    def __init__(self, *names: str):
        self.names = names

    def __get__(self, attack: Any, kind: type) -> tuple[type, ...]:
        try:
            from art.estimators import estimator
            from art.estimators.classification import classifier
        except ImportError:
            return ()
        return tuple(
            getattr(estimator, name, None) or getattr(classifier, name) for name in ("BaseEstimator", *self.names)
        )
