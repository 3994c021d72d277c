"""What servers make of saved models: facts as data, and the verdicts that follow from them."""
