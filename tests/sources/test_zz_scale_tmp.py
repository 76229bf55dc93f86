import time, numpy as np, pytest, cProfile, pstats
from datetime import timedelta
from django.db import connection
from django.test.utils import CaptureQueriesContext
from tests.factories import *
from sources.services import *
from sources.models import *
from tests.sources.skies import *
pytestmark=pytest.mark.django_db
@pytest.mark.parametrize('nsrc,nep',[(1000,1),(1000,100)])
def test_scale(products_root,nsrc,nep,capsys):
    rng=np.random.default_rng(0)
    truth=[(*offset(150.,30.,*rng.uniform(-7000,7000,2)),float(.02/rng.uniform(.05,1))) for _ in range(nsrc)]
    img=make_tile(products_root,truth,size_px=2400,fwhm_px=4000.)
    t=time.time(); m=measure_image(image=img); t1=time.time()-t
    t=time.time(); c=record_catalogue(image=img,measured=m); t2=time.time()-t
    out=['first',t1,t2,c.n_detected,c.n_new_sources]
    S=list(Source.objects.all())
    for e in range(nep-1):
        i=ImageFactory(ra_deg=img.ra_deg,dec_deg=img.dec_deg)
        Measurement.objects.bulk_create([Measurement(source=s,image=i,is_forced=f,observed_at=i.observed_at,ra_deg=s.ra_deg,dec_deg=s.dec_deg,position_err_arcsec=1.,healpix=s.healpix,flux_jy=.03,flux_err_jy=.001,peak_jy_per_beam=.03,rms_jy_per_beam=.001,primary_beam=1.) for s in S for f in (True,False)])
    im=make_tile(products_root,truth,size_px=2400,fwhm_px=4000.,day=1)
    t=time.time(); p=cProfile.Profile(); p.enable(); m=measure_image(image=im); p.disable(); t1=time.time()-t
    q=cProfile.Profile()
    with CaptureQueriesContext(connection) as cq:
        t=time.time(); q.enable(); c=record_catalogue(image=im,measured=m); q.disable(); t2=time.time()-t
    with capsys.disabled():
        print(nsrc,nep,out,'next',t1,t2,c.n_forced,c.n_new_sources,'queries',len(cq))
        pstats.Stats(p).sort_stats('cumulative').print_stats(22)
        pstats.Stats(q).sort_stats('cumulative').print_stats(22)
