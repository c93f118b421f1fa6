"""The learning of FedRecon: data, models, recoveries and the local loop. Knows no Flower and no Ray."""
