from flowers import load_model


class Flowers:
    def __init__(self):
        self.model = load_model()

    def predict_batch(self, inputs):
        return self.model.predict([input_data["features"] for input_data in inputs]).tolist()
