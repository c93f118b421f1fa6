"""The learning code of FedRecon: data, models, recoveries and the local loop. Independent of Flower and Ray."""
